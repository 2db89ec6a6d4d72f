-- Which methods name much the same segments whatever the query is?
SELECT
    cohort, label AS method, verdict,
    round(first_direction_share, 2) AS "first direction",
    round(query_rank_correlation, 2) AS "rank correlation of queries",
    round(occurrence_skewness, 1) AS skewness,
    round(largest_occurrence, 2) AS "queries with the largest hub"
FROM v_query_independence
ORDER BY query_rank_correlation DESC, cohort, method_id;
