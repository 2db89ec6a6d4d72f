-- Does reliability foretell whether the scores are right? Each query of the bench with its
-- reliability and its linear datamodelling score, by method. half: what is chosen on, and what it is
-- confirmed on.
CREATE VIEW v_reliability_calibration AS
SELECT
    q.cohort, e.method_id, q.query_id, r.reliability, e.value AS lds,
    CASE WHEN q.query_index % 2 = 0 THEN 'choosing' ELSE 'confirming' END AS half
FROM fct_evaluation e
JOIN dim_query q ON q.query_id = e.subject
JOIN v_query_reliability r ON r.query_id = q.query_id AND r.method_id = e.method_id
WHERE e.evaluation = 'datamodel' AND e.metric = 'lds' AND r.reliability IS NOT NULL;
