-- Do reliability and prominence foretell whether the scores are right? Each query of the bench with
-- both (v_query_reliability) and its linear datamodelling score, by method. evidence_lds: that of
-- what shares are made of. half: what is chosen on, and what it is confirmed on; both are of its own
-- subsets.
CREATE VIEW v_reliability_calibration AS
SELECT
    q.cohort, e.method_id, q.query_id, r.reliability, r.prominence,
    max(e.value) FILTER (e.metric = 'lds') AS lds,
    max(e.value) FILTER (e.metric = 'evidence_lds') AS evidence_lds,
    e.detail AS half
FROM fct_evaluation e
JOIN dim_query q ON q.query_id = e.subject
JOIN v_query_reliability r ON r.query_id = q.query_id AND r.method_id = e.method_id
WHERE e.evaluation = 'datamodel' AND e.detail <> ''
GROUP BY q.cohort, e.method_id, q.query_id, r.reliability, r.prominence, e.detail;
