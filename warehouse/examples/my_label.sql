-- For a rights organisation: what did a label's tracks shape? (Here: the label with the largest
-- total share.)
SELECT query_id, method_id, track_id, title, artist, round(share, 4) AS share
FROM v_track_share
WHERE share > 0 AND rightsholder = (
    SELECT rightsholder FROM v_rightsholder_share WHERE NOT is_unattributed
    GROUP BY rightsholder ORDER BY sum(share) DESC, rightsholder LIMIT 1
)
ORDER BY share DESC, query_id, track_id
LIMIT 20;
