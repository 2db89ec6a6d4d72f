-- The lineage of each score: the artifacts it was computed from, then the audio file itself.
CREATE VIEW v_score_lineage AS
SELECT
    s.query_id, s.method_id, s.segment_id, l.depth, l.asset, l.partition,
    l.artifact_digest AS sha256
FROM fct_score s
JOIN dim_query q USING (query_id)
JOIN v_lineage l
    ON l.root_asset = 'attribution/scores'
    AND l.root_partition = q.cohort || '|' || s.method_id
UNION ALL
SELECT
    s.query_id, s.method_id, s.segment_id, 99, 'audio file', t.audio, t.audio_sha256
FROM fct_score s
JOIN dim_segment g USING (segment_id)
JOIN dim_track t USING (track_id);
