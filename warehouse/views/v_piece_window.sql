-- The windows of every attributed piece, by method, silent ones too: what a window weighs in the
-- shares of its piece (weight, its part of the seconds), and how much of it is attributed to nobody.
-- A piece that is no longer than the model's window has one window, of weight 1.
CREATE VIEW v_piece_window AS
WITH attributed AS (
    SELECT DISTINCT q.piece_id, s.method_id FROM fct_score s JOIN dim_query q USING (query_id)
),
unattributed AS (
    SELECT query_id, method_id, any_value(unattributed) AS unattributed
    FROM v_segment_share GROUP BY query_id, method_id
)
SELECT
    q.piece_id,
    a.method_id,
    q.query_id,
    q.cohort,
    q.window_index,
    q.start_s,
    q.seconds,
    q.silent,
    q.seconds / sum(q.seconds) OVER (PARTITION BY q.piece_id, a.method_id) AS weight,
    coalesce(u.unattributed, 1) AS unattributed
FROM dim_query q
JOIN attributed a USING (piece_id)
LEFT JOIN unattributed u ON u.query_id = q.query_id AND u.method_id = a.method_id;
