-- One row per query and method: what stands out. A long piece is a query per window; all of it is a
-- row of v_piece_summary. The top track and rightsholder are null where nothing is attributed.
-- effective_tracks is (sum of track shares)^2 / sum of squared track shares: how many tracks the
-- attribution is spread over. gini is the Gini coefficient of the track shares: 0 when all training
-- tracks share alike, near 1 when one holds everything. prominence and reliability are those of
-- v_query_reliability: where one of them is below its threshold, nothing is attributed.
CREATE VIEW v_query_summary AS
WITH ordered AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY query_id, method_id ORDER BY share, track_id) AS place,
        count(*) OVER (PARTITION BY query_id, method_id) AS total
    FROM v_track_share
),
tracks AS (
    SELECT
        query_id,
        method_id,
        any_value(unattributed) AS unattributed,
        arg_max(title, -track_rank) FILTER (share > 0) AS top_title,
        arg_max(track_id, -track_rank) FILTER (share > 0) AS top_track_id,
        max(share) AS top_track_share,
        any_value(total) AS total,
        sum(share ORDER BY place) FILTER (share > 0) AS attributed,
        sum(share ^ 2 ORDER BY place) FILTER (share > 0) AS squares,
        sum((2 * place - total - 1) * share ORDER BY place) FILTER (share > 0) AS spread
    FROM ordered
    GROUP BY query_id, method_id
),
holders AS (
    SELECT
        query_id,
        method_id,
        min_by(rightsholder, (-share, rightsholder)) FILTER (share > 0) AS top_rightsholder,
        max(share) AS top_rightsholder_share
    FROM v_rightsholder_share
    WHERE NOT is_unattributed
    GROUP BY query_id, method_id
)
SELECT
    q.cohort,
    q.query_index,
    q.prompt,
    q.kind,
    t.query_id,
    t.method_id,
    t.unattributed,
    r.prominence,
    r.reliability,
    t.top_title,
    t.top_track_id,
    t.top_track_share,
    CASE WHEN t.attributed > 0 THEN t.attributed ^ 2 / t.squares END AS effective_tracks,
    CASE WHEN t.attributed > 0 THEN t.spread / (t.total * t.attributed) END AS gini,
    h.top_rightsholder,
    h.top_rightsholder_share,
    q.piece_id,
    q.window_index,
    q.start_s
FROM tracks t
JOIN holders h USING (query_id, method_id)
JOIN v_query_reliability r USING (query_id, method_id)
JOIN dim_query q USING (query_id);
