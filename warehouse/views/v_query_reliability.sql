-- How much of what tells a query's scores apart is more than chance in the draws: reliability =
-- 1 - mean(score_se^2) / variance(score) over training segments, at least 0 (the part of the variance
-- that is not the mean's error; Lord and Novick, 1968). Null for methods without draws, whose scores
-- have no such error. What it is worth, the bench calibrates.
CREATE VIEW v_query_reliability AS
SELECT
    s.query_id,
    s.method_id,
    CASE WHEN count(s.score_se) > 0 AND var_pop(s.score ORDER BY s.segment_id) > 0 THEN
        greatest(0, 1 - avg(s.score_se ^ 2 ORDER BY s.segment_id)
            / var_pop(s.score ORDER BY s.segment_id))
    END AS reliability
FROM fct_score s
JOIN dim_segment g USING (segment_id)
WHERE g.split = 'train'
GROUP BY s.query_id, s.method_id;
