-- Where the platform abstains: queries by their unattributed share.
SELECT query_id, method_id, prompt, round(unattributed, 4) AS unattributed,
    round(effective_tracks, 1) AS effective_tracks
FROM v_query_summary
ORDER BY unattributed DESC, query_id;
