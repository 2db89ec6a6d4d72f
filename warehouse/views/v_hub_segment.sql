-- Training segments that stand among the 20 most influential of many queries of a cohort, per
-- method: hubs. occurrences: number of queries that have the segment in their top 20 (equal scores
-- by segment id); queries: of the cohort; share: occurrences / queries, where chance has
-- 20 / segments; hub_rank: 1 is the most frequent. Segments in no query's top 20 have no row.
CREATE VIEW v_hub_segment AS
WITH placed AS (
    SELECT
        q.cohort, s.method_id, s.query_id, s.segment_id, g.track_id,
        row_number() OVER (
            PARTITION BY s.method_id, s.query_id ORDER BY s.score DESC, s.segment_id
        ) AS place,
        count(*) OVER (PARTITION BY s.method_id, s.query_id) AS segments
    FROM fct_score s
    JOIN dim_segment g USING (segment_id)
    JOIN dim_query q USING (query_id)
    WHERE g.split = 'train'
),
asked AS (
    SELECT cohort, method_id, count(*) AS queries FROM placed WHERE place = 1 GROUP BY ALL
)
SELECT
    p.cohort,
    p.method_id,
    p.segment_id,
    p.track_id,
    t.title,
    t.rightsholder,
    count(*) AS occurrences,
    a.queries,
    count(*) / a.queries AS share,
    any_value(p.segments) AS segments,
    row_number() OVER (
        PARTITION BY p.cohort, p.method_id ORDER BY count(*) DESC, p.segment_id
    ) AS hub_rank
FROM placed p
JOIN asked a USING (cohort, method_id)
JOIN dim_track t USING (track_id)
WHERE p.place <= 20
GROUP BY p.cohort, p.method_id, p.segment_id, p.track_id, t.title, t.rightsholder, a.queries;
