-- One row per piece and method: what stands out in it, and how many windows it has. The top track
-- and rightsholder are null where nothing is attributed. prominence is the highest of its windows,
-- reliability the lowest (v_query_reliability).
CREATE VIEW v_piece_summary AS
WITH tracks AS (
    SELECT
        piece_id,
        method_id,
        any_value(unattributed) AS unattributed,
        arg_min(title, track_rank) FILTER (share > 0) AS top_title,
        arg_min(track_id, track_rank) FILTER (share > 0) AS top_track_id,
        max(share) AS top_track_share
    FROM v_piece_track_share
    GROUP BY piece_id, method_id
),
holders AS (
    SELECT
        piece_id,
        method_id,
        min_by(rightsholder, (-share, rightsholder)) FILTER (share > 0) AS top_rightsholder,
        max(share) AS top_rightsholder_share
    FROM v_piece_rightsholder_share
    WHERE NOT is_unattributed
    GROUP BY piece_id, method_id
),
windows AS (
    SELECT
        w.piece_id,
        w.method_id,
        count(*) AS windows,
        count(*) FILTER (w.silent) AS silent_windows,
        sum(w.seconds ORDER BY w.window_index) AS seconds,
        max(r.prominence) AS prominence,
        min(r.reliability) AS reliability
    FROM v_piece_window w
    LEFT JOIN v_query_reliability r USING (query_id, method_id)
    GROUP BY w.piece_id, w.method_id
),
pieces AS (
    SELECT DISTINCT piece_id, cohort, query_index, prompt, kind FROM dim_query
)
SELECT
    p.cohort,
    p.query_index,
    p.prompt,
    p.kind,
    t.piece_id,
    t.method_id,
    w.windows,
    w.silent_windows,
    w.seconds,
    t.unattributed,
    w.prominence,
    w.reliability,
    t.top_title,
    t.top_track_id,
    t.top_track_share,
    h.top_rightsholder,
    h.top_rightsholder_share
FROM tracks t
JOIN holders h USING (piece_id, method_id)
JOIN windows w USING (piece_id, method_id)
JOIN pieces p USING (piece_id);
