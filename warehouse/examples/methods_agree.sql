-- Which methods agree? Mean correlation of their scores over the queries of a cohort.
SELECT a.cohort, m.label AS method, o.label AS other, round(a.pearson, 3) AS pearson,
    round(a.spearman, 3) AS spearman, round(t.jaccard, 3) AS top_10_overlap
FROM v_method_agreement a
JOIN dim_method m ON m.method_id = a.method_id
JOIN dim_method o ON o.method_id = a.other_method_id
LEFT JOIN v_top_overlap t
    ON t.cohort = a.cohort AND t.method_id = a.method_id AND t.other_method_id = a.other_method_id
WHERE a.query_id IS NULL
ORDER BY a.cohort, a.spearman DESC;
