-- How far two methods agree about a query: correlation of their scores over training segments.
-- One row per query and pair of methods (method_id < other_method_id), and one per cohort and pair
-- with query_id null: the mean over its queries. Spearman's ties share their mean rank. No rows with
-- one method, or where two have scored other segments; null where a method's scores are all equal.
-- Specs of one method (a grid) are not compared with each other, and queries that only they have
-- scored are passed over at once: ranking a grid's scores takes long and pairs none of them.
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
        s.query_id, s.method_id, s.segment_id, s.score::DOUBLE AS score,
        rank() OVER w + (count(*) OVER (PARTITION BY s.query_id, s.method_id, s.score) - 1) / 2
            AS mean_rank
    FROM fct_score s
    JOIN comparable c USING (query_id)
    JOIN dim_segment g USING (segment_id)
    WHERE g.split = 'train'
    WINDOW w AS (PARTITION BY s.query_id, s.method_id ORDER BY s.score)
),
centred AS (
    SELECT
        query_id, method_id, segment_id, score, mean_rank,
        score - avg(score) OVER w AS above,
        mean_rank - avg(mean_rank) OVER w AS ahead
    FROM ranked
    WINDOW w AS (
        PARTITION BY query_id, method_id ORDER BY segment_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
    )
),
-- One row per query and method, so that a pair of methods is a row and not as many as there are
-- segments: a bench's pairs would not fit into memory.
vectors AS (
    SELECT
        query_id,
        method_id,
        count(*) AS segments,
        list(segment_id ORDER BY segment_id) AS segment_ids,
        -- A constant column has no correlation.
        CASE WHEN min(score) < max(score) THEN list(above ORDER BY segment_id) END AS scores,
        CASE WHEN min(score) < max(score) THEN list(ahead ORDER BY segment_id) END AS ranks
    FROM centred
    GROUP BY query_id, method_id
),
pairs AS (
    SELECT
        q.cohort,
        a.query_id,
        a.method_id,
        b.method_id AS other_method_id,
        a.segments,
        list_cosine_similarity(a.ranks, b.ranks) AS spearman,
        list_cosine_similarity(a.scores, b.scores) AS pearson
    FROM vectors a
    JOIN vectors b
        ON b.query_id = a.query_id AND a.method_id < b.method_id AND b.segment_ids = a.segment_ids
    JOIN dim_query q ON q.query_id = a.query_id
    JOIN dim_method m ON m.method_id = a.method_id
    JOIN dim_method o ON o.method_id = b.method_id AND o.method <> m.method
)
SELECT * FROM pairs
UNION ALL
SELECT cohort, NULL, method_id, other_method_id, sum(segments)::BIGINT,
    avg(spearman ORDER BY query_id), avg(pearson ORDER BY query_id)
FROM pairs
GROUP BY cohort, method_id, other_method_id;
