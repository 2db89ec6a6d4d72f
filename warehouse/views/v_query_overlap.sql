-- Is it always the same tracks? Mean over pairs of queries of a cohort of the Jaccard index of their
-- ten most influential tracks, per method; and how many tracks are in any of the lists.
CREATE VIEW v_query_overlap AS
WITH top AS (
    SELECT * FROM v_track_rank WHERE track_rank <= 10
),
sizes AS (
    SELECT cohort, method_id, query_id, count(*) AS size FROM top GROUP BY ALL
),
shared AS (
    SELECT a.method_id, a.query_id, b.query_id AS other_query_id, count(*) AS shared
    FROM top a
    JOIN top b
        ON b.method_id = a.method_id AND b.cohort = a.cohort AND b.track_id = a.track_id
        AND a.query_id < b.query_id
    GROUP BY ALL
),
overlap AS (
    SELECT
        x.cohort,
        x.method_id,
        count(*) AS pairs,
        avg(coalesce(s.shared, 0) / (x.size + y.size - coalesce(s.shared, 0))
            ORDER BY x.query_id, y.query_id) AS jaccard
    FROM sizes x
    JOIN sizes y
        ON y.cohort = x.cohort AND y.method_id = x.method_id AND x.query_id < y.query_id
    LEFT JOIN shared s
        ON s.method_id = x.method_id AND s.query_id = x.query_id AND s.other_query_id = y.query_id
    GROUP BY x.cohort, x.method_id
)
SELECT o.*, count(DISTINCT t.track_id) AS distinct_tracks
FROM overlap o
JOIN top t USING (cohort, method_id)
GROUP BY ALL;
