-- Training tracks by their best segment's score, per query and method: 1 is the most influential.
-- The track that a query was taken from is left out, so that ranks speak of the others.
CREATE VIEW v_track_rank AS
WITH best AS (
    SELECT s.query_id, s.method_id, g.track_id, max(s.score) AS score
    FROM fct_score s
    JOIN dim_segment g USING (segment_id)
    WHERE g.split = 'train'
    GROUP BY s.query_id, s.method_id, g.track_id
)
SELECT
    b.query_id,
    q.cohort,
    b.method_id,
    b.track_id,
    b.score,
    row_number() OVER (
        PARTITION BY b.query_id, b.method_id ORDER BY b.score DESC, b.track_id
    ) AS track_rank
FROM best b
JOIN dim_query q USING (query_id)
LEFT JOIN dim_segment own ON own.segment_id = q.segment_id
WHERE own.track_id IS DISTINCT FROM b.track_id;
