-- How few segments hold most of the influence, per cohort and method: Gini coefficient and share of
-- the top 1 % of what scores are above their median, averaged over queries.
CREATE VIEW v_concentration AS
SELECT
    q.cohort,
    e.method_id,
    count(DISTINCT q.query_id) AS queries,
    avg(e.value ORDER BY q.query_id) FILTER (e.metric = 'gini') AS gini,
    avg(e.value ORDER BY q.query_id) FILTER (e.metric = 'top_1pct_share') AS top_1pct_share
FROM fct_evaluation e
JOIN dim_query q ON q.query_id = e.subject
WHERE e.evaluation = 'attribution' AND e.metric IN ('gini', 'top_1pct_share')
GROUP BY q.cohort, e.method_id;
