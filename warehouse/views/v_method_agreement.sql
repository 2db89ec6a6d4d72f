-- How far two methods agree about a query: correlation of their scores over training segments.
-- One row per query and pair of methods (method_id < other_method_id), and one per cohort and pair
-- with query_id null: the mean over its queries. Spearman's ties share their mean rank. No rows with
-- one method; null where a method's scores are all equal. Specs of one method (a grid) are not
-- compared with each other, and queries that only they have scored are passed over at once: ranking
-- a grid's scores takes long and pairs none of them.
CREATE VIEW v_method_agreement AS
WITH comparable AS (
    SELECT s.query_id
    FROM (SELECT DISTINCT query_id, method_id FROM fct_score) s
    JOIN dim_method m USING (method_id)
    GROUP BY s.query_id
    HAVING count(DISTINCT m.method) > 1
),
ranked AS (
    SELECT
        q.cohort, s.query_id, s.method_id, m.method, s.segment_id, s.score,
        rank() OVER w + (count(*) OVER (PARTITION BY s.query_id, s.method_id, s.score) - 1) / 2
            AS mean_rank
    FROM fct_score s
    JOIN comparable c USING (query_id)
    JOIN dim_segment g USING (segment_id)
    JOIN dim_query q USING (query_id)
    JOIN dim_method m USING (method_id)
    WHERE g.split = 'train'
    WINDOW w AS (PARTITION BY s.query_id, s.method_id ORDER BY s.score)
),
pairs AS (
    SELECT
        a.cohort,
        a.query_id,
        a.method_id,
        b.method_id AS other_method_id,
        count(*) AS segments,
        -- A constant column has no correlation; duckdb versions differ on NaN or null there.
        CASE WHEN min(a.score) < max(a.score) AND min(b.score) < max(b.score)
            THEN corr(a.mean_rank, b.mean_rank ORDER BY a.segment_id) END AS spearman,
        CASE WHEN min(a.score) < max(a.score) AND min(b.score) < max(b.score)
            THEN corr(a.score, b.score ORDER BY a.segment_id) END AS pearson
    FROM ranked a
    JOIN ranked b
        ON b.query_id = a.query_id AND b.segment_id = a.segment_id AND a.method_id < b.method_id
        AND a.method <> b.method
    GROUP BY ALL
)
SELECT * FROM pairs
UNION ALL
SELECT cohort, NULL, method_id, other_method_id, sum(segments)::BIGINT,
    avg(spearman ORDER BY query_id), avg(pearson ORDER BY query_id)
FROM pairs
GROUP BY cohort, method_id, other_method_id;
