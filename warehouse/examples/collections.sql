-- Which collections shaped the cohort: shares summed over queries, beside each collection's part
-- of the training tracks.
SELECT
    t.collection,
    round(sum(s.share) / count(DISTINCT (s.query_id, s.method_id)), 4) AS mean_share,
    round(count(DISTINCT t.track_id) / (SELECT count(*) FROM dim_track WHERE split = 'train'), 4)
        AS part_of_training
FROM v_track_share s JOIN dim_track t USING (track_id)
GROUP BY t.collection
ORDER BY mean_share DESC, t.collection;
