-- The lineage of one score down to the audio file's hash: the best-ranked score of the first query.
SELECT depth, asset, partition, sha256
FROM v_score_lineage
WHERE (query_id, method_id, segment_id) = (
    SELECT (query_id, method_id, segment_id)
    FROM fct_score WHERE rank = 1 ORDER BY query_id, method_id LIMIT 1
)
ORDER BY depth, asset, partition;
