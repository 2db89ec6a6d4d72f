-- Do the 95 % intervals of scores hold what they promise? Where the same method was run under two
-- noise plans (its spec differs in noise, sweep and seeds alone): the share of segments whose two scores lie
-- within 1.96 standard errors of their difference. rank_correlation: how alike the two rank segments.
CREATE VIEW v_interval_coverage AS
WITH specs AS (
    SELECT
        method_id, method,
        json_merge_patch(
            config::JSON,
            '{"noise": null, "sweep": null, "seed": null, "gradients": {"seed": null}}'
        ) AS same
    FROM dim_method
)
SELECT
    q.cohort, a.method_id, b.method_id AS other_method_id, count(*) AS scores,
    avg((abs(s.score - o.score) <= 1.96 * sqrt(s.score_se ^ 2 + o.score_se ^ 2))::INT) AS coverage,
    corr(s.rank, o.rank) AS rank_correlation
FROM specs a
JOIN specs b ON b.same = a.same AND b.method_id > a.method_id
JOIN fct_score s ON s.method_id = a.method_id
JOIN fct_score o
    ON o.method_id = b.method_id AND o.query_id = s.query_id AND o.segment_id = s.segment_id
JOIN dim_query q ON q.query_id = s.query_id
WHERE s.score_se IS NOT NULL AND o.score_se IS NOT NULL
GROUP BY q.cohort, a.method_id, b.method_id;
