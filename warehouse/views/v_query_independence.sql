-- Do a method's scores depend on the query? One row per cohort and method, for cohorts of two queries
-- or more (after arXiv:2605.16181). first_direction_share: part of the score matrix' energy, each
-- query's scores standardised, that lies in its first singular direction; at least 1 / queries.
-- query_rank_correlation: mean Spearman correlation of the scores of two different queries.
-- occurrence_skewness: skewness over segments of the number of queries that have a segment in their
-- top 20 (hubness; Radovanović and others, 2010). largest_occurrence: share of the queries that have
-- the most frequent segment there (v_hub_segment names it). verdict: 'ignores the query' where both
-- first_direction_share and query_rank_correlation are 0.5 or more, so that most of what tells
-- segments apart is one ranking for all queries; 'depends on the query' otherwise.
CREATE VIEW v_query_independence AS
WITH figures AS (
    SELECT
        e.subject AS cohort,
        e.method_id,
        max(e.value) FILTER (e.metric = 'first_direction_share') AS first_direction_share,
        max(e.value) FILTER (e.metric = 'query_rank_correlation') AS query_rank_correlation,
        max(e.value) FILTER (e.metric = 'occurrence_skewness') AS occurrence_skewness,
        max(e.value) FILTER (e.metric = 'largest_occurrence') AS largest_occurrence
    FROM fct_evaluation e
    WHERE e.evaluation = 'attribution' AND e.subject IN (SELECT cohort FROM dim_query)
    GROUP BY e.subject, e.method_id
)
SELECT
    f.cohort, f.method_id, m.method, m.label, m.family,
    f.* EXCLUDE (cohort, method_id),
    CASE WHEN f.first_direction_share >= 0.5 AND f.query_rank_correlation >= 0.5
        THEN 'ignores the query' ELSE 'depends on the query' END AS verdict
FROM figures f
JOIN dim_method m USING (method_id)
WHERE f.first_direction_share IS NOT NULL;
