-- Figures of the queries of an experiment, one row per experiment, method spec, query and figure.
-- half: choosing (even query_index) or confirming (odd), so that a spec that is chosen on one half
-- can be confirmed on the other.
CREATE VIEW v_experiment_figure AS
SELECT
    x.experiment,
    x.cohort,
    x.method_id,
    q.query_id,
    CASE WHEN q.query_index % 2 = 0 THEN 'choosing' ELSE 'confirming' END AS half,
    e.metric,
    e.detail,
    e.value
FROM dim_experiment x
JOIN dim_query q USING (cohort)
JOIN fct_evaluation e
    ON e.subject = q.query_id AND e.method_id = x.method_id AND e.evaluation = 'attribution';
