-- At which timesteps did unlearning the first query hurt its ten most influential segments?
SELECT round(b.timestep, 3) AS timestep, avg(b.loss) AS loss_before,
    avg(u.loss - b.loss) AS mean_rise
FROM fct_loss u
JOIN fct_loss b ON b.query_id IS NULL AND b.segment_id = u.segment_id AND b.draw = u.draw
JOIN fct_score s ON s.query_id = u.query_id AND s.method_id = u.method_id
    AND s.segment_id = u.segment_id AND s.rank <= 10
WHERE u.query_id = (SELECT min(query_id) FROM fct_score)
GROUP BY b.timestep
ORDER BY b.timestep;
