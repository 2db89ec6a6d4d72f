-- Top tracks of a query: the five most influential tracks of the first query.
SELECT track_rank, title, composer, artist, rightsholder, round(share, 4) AS share,
    round(best_z, 2) AS best_z, best_segment_id
FROM v_track_share
WHERE (query_id, method_id) = (SELECT min((query_id, method_id)) FROM fct_score)
ORDER BY track_rank
LIMIT 5;
