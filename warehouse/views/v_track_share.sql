-- Share and best segment of every training track, per query and method, and its rank by share
-- (ties by highest score). One row per track; the unattributed share is a column.
CREATE VIEW v_track_share AS
SELECT
    query_id,
    method_id,
    row_number() OVER (
        PARTITION BY query_id, method_id
        ORDER BY sum(s.share) DESC, max(s.score) DESC, s.track_id
    ) AS track_rank,
    s.track_id,
    any_value(t.title) AS title,
    any_value(t.composer) AS composer,
    any_value(t.collection) AS collection,
    any_value(t.artist) AS artist,
    any_value(t.rightsholder) AS rightsholder,
    sum(s.share) AS share,
    max(s.score) AS best_score,
    max(s.z) AS best_z,
    arg_max(s.segment_id, s.score) AS best_segment_id,
    any_value(s.unattributed) AS unattributed
FROM v_segment_share s
JOIN dim_track t USING (track_id)
GROUP BY query_id, method_id, s.track_id;
