-- One track's influence over all queries. (Here: the track with the largest total share.)
SELECT query_id, method_id, track_rank, round(share, 4) AS share, round(best_z, 2) AS best_z,
    best_segment_id
FROM v_track_share
WHERE track_id = (
    SELECT track_id FROM v_track_share GROUP BY track_id ORDER BY sum(share) DESC, track_id LIMIT 1
)
ORDER BY share DESC, query_id, method_id;
