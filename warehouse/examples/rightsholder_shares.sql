-- Shares per rightsholder for every query, with what is left unattributed.
SELECT query_id, method_id, rightsholder, round(share, 4) AS share, tracks
FROM v_rightsholder_share
WHERE share > 0
ORDER BY query_id, method_id, is_unattributed, share DESC, rightsholder;
