-- The lineage of each score: the artifacts it was computed from by distance (depth), then, behind
-- the furthest of them, the segment's samples and the audio file they were cut from.
CREATE VIEW v_score_lineage AS
WITH furthest AS (
    SELECT coalesce(max(depth), 0) AS depth FROM v_lineage WHERE root_asset = 'attribution/scores'
)
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
    s.query_id, s.method_id, s.segment_id, f.depth + 1, 'segment', s.segment_id, g.segment_sha256
FROM fct_score s
JOIN dim_segment g USING (segment_id)
CROSS JOIN furthest f
UNION ALL
SELECT
    s.query_id, s.method_id, s.segment_id, f.depth + 2, 'audio file', t.audio, t.audio_sha256
FROM fct_score s
JOIN dim_segment g USING (segment_id)
JOIN dim_track t USING (track_id)
CROSS JOIN furthest f;
