-- Share of every training track in a piece, by method: the shares in its windows (v_track_share),
-- weighted by the windows' seconds; and the track's rank by share. best_segment_id is the segment
-- that stands out furthest in any window, best_query_id that window. One row per track; the
-- unattributed share, silent windows among it, is a column. A window is scored by itself, so scores
-- of two windows are not comparable, but how far they stand out (z) is. payout: as in v_track_share.
CREATE VIEW v_piece_track_share AS
WITH weighed AS (
    SELECT w.piece_id, w.weight, t.*
    FROM v_track_share t JOIN v_piece_window w USING (query_id, method_id)
),
-- Decimals, whose sum does not depend on the order of rows.
unattributed AS (
    SELECT
        piece_id, method_id,
        sum((weight * unattributed)::DECIMAL(38, 20))::DOUBLE AS unattributed
    FROM v_piece_window
    GROUP BY piece_id, method_id
),
tracks AS (
    SELECT
        piece_id,
        method_id,
        track_id,
        sum((weight * share)::DECIMAL(38, 20))::DOUBLE AS share,
        any_value(training_share) AS training_share,
        max(best_z) AS best_z,
        max_by(best_score, (best_z, best_score, query_id)) AS best_score,
        max_by(best_segment_id, (best_z, best_score, query_id)) AS best_segment_id,
        max_by(query_id, (best_z, best_score, query_id)) AS best_query_id
    FROM weighed
    GROUP BY piece_id, method_id, track_id
)
SELECT
    s.piece_id,
    s.method_id,
    row_number() OVER (
        PARTITION BY s.piece_id, s.method_id
        ORDER BY s.share DESC, s.best_z DESC, s.best_score DESC, s.track_id
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
    s.best_query_id,
    u.unattributed,
    s.training_share,
    s.share + u.unattributed * s.training_share AS payout
FROM tracks s
JOIN unattributed u USING (piece_id, method_id)
JOIN dim_track t USING (track_id);
