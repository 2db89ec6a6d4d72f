-- Do two methods name the same tracks? Mean over the queries of a cohort of the Jaccard index of
-- their ten most influential tracks. Specs of one method are not compared with each other.
CREATE VIEW v_top_overlap AS
WITH top AS (
    SELECT r.*, m.method FROM v_track_rank r JOIN dim_method m USING (method_id)
    WHERE track_rank <= 10
),
sizes AS (
    SELECT query_id, method_id, count(*) AS size FROM top GROUP BY query_id, method_id
),
attributed AS (
    SELECT DISTINCT cohort, query_id, method_id, method FROM top
),
pairs AS (
    SELECT a.cohort, a.query_id, a.method_id, b.method_id AS other_method_id
    FROM attributed a
    JOIN attributed b
        ON b.query_id = a.query_id AND a.method_id < b.method_id AND a.method <> b.method
),
shared AS (
    SELECT a.query_id, a.method_id, b.method_id AS other_method_id, count(*) AS shared
    FROM top a
    JOIN top b
        ON b.query_id = a.query_id AND b.track_id = a.track_id AND a.method_id < b.method_id
        AND a.method <> b.method
    GROUP BY ALL
)
SELECT
    p.cohort,
    p.method_id,
    p.other_method_id,
    count(*) AS queries,
    avg(coalesce(s.shared, 0) / (x.size + y.size - coalesce(s.shared, 0)) ORDER BY p.query_id)
        AS jaccard
FROM pairs p
LEFT JOIN shared s USING (query_id, method_id, other_method_id)
JOIN sizes x ON x.query_id = p.query_id AND x.method_id = p.method_id
JOIN sizes y ON y.query_id = p.query_id AND y.method_id = p.other_method_id
GROUP BY p.cohort, p.method_id, p.other_method_id;
