-- Share, payout and best segment of every training track, per query and method, and its rank by
-- share (ties by highest score). One row per track; the unattributed share is a column.
-- training_share: the track's part of the seconds that the model was trained on. payout: what the
-- track is paid when the unattributed share is paid pro rata, share + unattributed * training_share;
-- payouts sum to one.
CREATE VIEW v_track_share AS
WITH tracks AS (
    SELECT
        query_id,
        method_id,
        track_id,
        sum(share::DECIMAL(38, 20))::DOUBLE AS share,
        max(score) AS best_score,
        max(z) AS best_z,
        arg_min(segment_id, rank) AS best_segment_id,
        any_value(unattributed) AS unattributed
    FROM v_segment_share
    GROUP BY query_id, method_id, track_id
),
trained AS (
    SELECT
        track_id,
        sum(valid_samples) / sum(sum(valid_samples)) OVER () AS training_share
    FROM dim_segment
    WHERE split = 'train'
    GROUP BY track_id
)
SELECT
    s.query_id,
    s.method_id,
    row_number() OVER (
        PARTITION BY s.query_id, s.method_id
        ORDER BY s.share DESC, s.best_score DESC, s.track_id
    ) AS track_rank,
    s.track_id,
    t.title,
    t.composer,
    t.collection,
    t.artist,
    t.rightsholder,
    s.share,
    s.best_score,
    s.best_z,
    s.best_segment_id,
    s.unattributed,
    n.training_share,
    s.share + s.unattributed * n.training_share AS payout
FROM tracks s
JOIN dim_track t USING (track_id)
JOIN trained n USING (track_id);
