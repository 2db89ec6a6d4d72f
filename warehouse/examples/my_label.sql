-- For a rights organisation: what did a label's tracks shape? (Here: the label with the largest
-- total share.) Tracks whose share is zero did not stand out from the noise.
SELECT query_id, method_id, track_id, title, artist, round(share, 4) AS share,
    round(best_z, 2) AS best_z
FROM v_track_share
WHERE rightsholder = (
    SELECT rightsholder FROM v_rightsholder_share WHERE NOT is_unattributed
    GROUP BY rightsholder ORDER BY sum(share) DESC, rightsholder LIMIT 1
)
ORDER BY share DESC, best_z DESC, query_id, track_id
LIMIT 20;
