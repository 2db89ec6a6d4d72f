-- The difference of a metric (lds, evidence_lds, payout_error) between two methods, with its 95 %
-- interval. Both are resampled with the same queries and subsets, so what makes some of them hard for
-- all methods is not in it. detail: of all queries and subsets (''), or of a half; for payout_error
-- with the assignment of tracks to parties before it ('rightsholder', 'unequal, confirming').
CREATE VIEW v_method_difference AS
SELECT
    a.cohort,
    a.metric,
    a.detail,
    a.method_id,
    b.method_id AS other_method_id,
    any_value(e.value) - any_value(o.value) AS difference,
    quantile_cont(a.value - b.value, 0.025) AS low,
    quantile_cont(a.value - b.value, 0.975) AS high
FROM fct_resample a
JOIN fct_resample b
    ON b.cohort = a.cohort AND b.metric = a.metric AND b.detail = a.detail
    AND b.resample = a.resample AND b.method_id <> a.method_id
JOIN fct_evaluation e
    ON e.evaluation IN ('datamodel', 'payout') AND e.subject = a.cohort AND e.method_id = a.method_id
    AND e.metric = a.metric AND e.detail = a.detail
JOIN fct_evaluation o
    ON o.evaluation IN ('datamodel', 'payout') AND o.subject = b.cohort AND o.method_id = b.method_id
    AND o.metric = b.metric AND o.detail = b.detail
GROUP BY a.cohort, a.metric, a.detail, a.method_id, b.method_id;
