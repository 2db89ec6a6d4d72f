-- For queries that are training segments: where the other renditions of the same excerpt rank.
CREATE VIEW v_version_recall AS
WITH family AS (
    SELECT track_id, coalesce(version_of, track_id) AS excerpt, version_kind FROM dim_track
)
SELECT
    t.query_id, t.method_id, q.segment_id AS query_segment_id, t.track_id, f.version_kind,
    t.track_rank, t.share
FROM v_track_share t
JOIN dim_query q USING (query_id)
JOIN dim_segment g ON g.segment_id = q.segment_id
JOIN family own ON own.track_id = g.track_id
JOIN family f ON f.track_id = t.track_id AND f.excerpt = own.excerpt
WHERE t.track_id <> g.track_id;
