-- How far a query's scores are to be trusted, by method; over its training segments.
-- reliability: how much of what tells the scores apart is more than chance in the draws,
-- 1 - mean(score_se^2) / variance(score), at least 0 (the part of the variance that is not the mean's
-- error; Lord and Novick, 1968). Null for methods without draws, whose scores have no such error.
-- prominence: how far the best segment stands out of the bulk, as a multiple of how far the best of
-- as many draws of normal noise would, sqrt(2 ln N) (Donoho and Johnstone's universal threshold,
-- 1994): at 1 and below, nothing was found. 0 where the bulk's scores are all equal.
-- What both are worth, the bench calibrates.
CREATE VIEW v_query_reliability AS
WITH scored AS (
    SELECT s.*
    FROM fct_score s JOIN dim_segment g USING (segment_id)
    WHERE g.split = 'train'
),
centre AS (
    SELECT
        query_id,
        method_id,
        count(*) AS segments,
        median(score) AS median_score,
        max(score) AS highest_score,
        CASE WHEN count(score_se) > 0 AND var_pop(score ORDER BY segment_id) > 0 THEN
            greatest(0, 1 - avg(score_se ^ 2 ORDER BY segment_id)
                / var_pop(score ORDER BY segment_id))
        END AS reliability
    FROM scored
    GROUP BY query_id, method_id
),
spread AS (
    SELECT s.query_id, s.method_id, 1.4826 * median(abs(s.score - c.median_score)) AS robust_sd
    FROM scored s JOIN centre c USING (query_id, method_id)
    GROUP BY s.query_id, s.method_id
)
SELECT
    c.query_id,
    c.method_id,
    c.segments,
    c.median_score,
    d.robust_sd,
    c.reliability,
    CASE WHEN d.robust_sd > 0 AND c.segments > 1
        THEN (c.highest_score - c.median_score) / d.robust_sd / sqrt(2 * ln(c.segments))
        ELSE 0 END AS prominence
FROM centre c JOIN spread d USING (query_id, method_id);
