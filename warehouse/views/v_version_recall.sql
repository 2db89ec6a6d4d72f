-- For queries that are training segments: where the other renditions of the same excerpt rank among
-- the other training tracks, by their best segment.
CREATE VIEW v_version_recall AS
WITH family AS (
    SELECT track_id, coalesce(version_of, track_id) AS excerpt, version_kind FROM dim_track
)
SELECT
    t.cohort, t.query_id, t.method_id, q.segment_id AS query_segment_id, t.track_id,
    -- The kind of the version that is not the original, whichever of the two was asked for.
    coalesce(f.version_kind, own.version_kind) AS version_kind,
    t.track_rank
FROM v_track_rank t
JOIN dim_query q USING (query_id)
JOIN dim_segment g ON g.segment_id = q.segment_id
JOIN family own ON own.track_id = g.track_id
JOIN family f ON f.track_id = t.track_id AND f.excerpt = own.excerpt;
