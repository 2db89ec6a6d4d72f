-- One row per query and method: what stands out.
-- effective_tracks is 1 / sum of squared track shares (of the attributed part): how many tracks
-- the attribution is spread over.
CREATE VIEW v_query_summary AS
WITH tracks AS (
    SELECT
        query_id,
        method_id,
        any_value(unattributed) AS unattributed,
        arg_max(title, -track_rank) AS top_title,
        arg_max(track_id, -track_rank) AS top_track_id,
        max(share) AS top_track_share,
        CASE WHEN sum(share) > 0 THEN sum(share) ^ 2 / sum(share ^ 2) END AS effective_tracks
    FROM v_track_share
    GROUP BY query_id, method_id
),
holders AS (
    SELECT
        query_id,
        method_id,
        arg_max(rightsholder, share) AS top_rightsholder,
        max(share) AS top_rightsholder_share
    FROM v_rightsholder_share
    WHERE NOT is_unattributed
    GROUP BY query_id, method_id
)
SELECT q.cohort, q.query_index, q.prompt, q.kind, t.*, h.top_rightsholder, h.top_rightsholder_share
FROM tracks t
JOIN holders h USING (query_id, method_id)
JOIN dim_query q USING (query_id);
