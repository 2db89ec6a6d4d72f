-- Which part of a piece owes what to whom: the windows of each piece, with what stands out in them.
SELECT
    w.piece_id, w.method_id, w.window_index, round(w.start_s, 2) AS start_s,
    round(w.seconds, 2) AS seconds, w.silent, s.top_title,
    round(s.top_track_share, 4) AS top_track_share, s.top_rightsholder,
    round(w.unattributed, 4) AS unattributed
FROM v_piece_window w
LEFT JOIN v_query_summary s USING (query_id, method_id)
ORDER BY w.piece_id, w.method_id, w.window_index;
