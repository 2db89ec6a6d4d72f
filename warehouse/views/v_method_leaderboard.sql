-- Figures of each method, averaged over queries. place: 1 is the best method of a figure, null
-- where neither direction is better. Of what was held against retraining, queries count once: their
-- halves, and what is said of the whole cohort, are in v_bench.
CREATE VIEW v_method_leaderboard AS
WITH figures AS (
    SELECT
        e.evaluation, e.metric, m.label, e.method_id,
        avg(e.value ORDER BY e.subject, e.detail) AS value,
        min(e.value) AS lowest, max(e.value) AS highest, count(*) AS queries,
        any_value(e.direction) AS direction, any_value(e.unit) AS unit
    FROM fct_evaluation e JOIN dim_method m USING (method_id)
    WHERE e.evaluation <> 'datamodel'
        OR (e.detail = '' AND e.subject IN (SELECT query_id FROM dim_query))
    GROUP BY e.evaluation, e.metric, m.label, e.method_id
)
SELECT
    *,
    CASE WHEN direction <> 'none' THEN rank() OVER (
        PARTITION BY evaluation, metric
        ORDER BY CASE direction WHEN 'higher' THEN -value ELSE value END
    ) END AS place
FROM figures;
