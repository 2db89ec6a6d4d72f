-- Figures of each method, averaged over queries.
CREATE VIEW v_method_leaderboard AS
SELECT
    e.metric, m.label, e.method_id, avg(e.value) AS value, min(e.value) AS lowest,
    max(e.value) AS highest, count(*) AS queries, any_value(e.direction) AS direction
FROM fct_evaluation e JOIN dim_method m USING (method_id)
GROUP BY e.metric, m.label, e.method_id;
