-- The segments at the top of each query, and how far down chance in the draws could have put them.
SELECT
    s.query_id, m.label AS method, t.title, g.start_s, s.rank, r.rank_best, r.rank_worst,
    round(s.score, 6) AS score, round(r.score_low, 6) || ' to ' || round(r.score_high, 6) AS interval
FROM v_rank_stability r
JOIN fct_score s USING (query_id, method_id, segment_id)
JOIN dim_segment g USING (segment_id)
JOIN dim_track t USING (track_id)
JOIN dim_method m USING (method_id)
WHERE s.rank <= 3
ORDER BY s.query_id, method, s.method_id, s.rank;
