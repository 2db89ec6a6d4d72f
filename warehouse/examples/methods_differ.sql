-- Which methods are better than the paper's by more than chance, held against retraining?
SELECT m.label, round(d.difference, 3) AS difference, round(d.low, 3) AS low,
    round(d.high, 3) AS high, d.low > 0 AS better
FROM v_method_difference d
JOIN dim_method m USING (method_id)
JOIN dim_method o ON o.method_id = d.other_method_id
JOIN dim_experiment x
    ON x.cohort = d.cohort AND x.method_id = d.other_method_id AND x.experiment = 'bench'
WHERE d.metric = 'evidence_lds' AND d.detail = '' AND o.method = 'fim_unlearning'
ORDER BY d.difference DESC;
