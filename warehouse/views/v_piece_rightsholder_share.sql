-- Shares per rightsholder of a piece, by method, with the unattributed share as a row of its own.
-- Sums to one for each piece and method. is_unattributed tells that row from a rightsholder of the
-- same name.
CREATE VIEW v_piece_rightsholder_share AS
SELECT
    piece_id,
    method_id,
    rightsholder,
    sum(share::DECIMAL(38, 20))::DOUBLE AS share,
    count(*) FILTER (share > 0) AS tracks,
    false AS is_unattributed
FROM v_piece_track_share
GROUP BY ALL
UNION ALL
SELECT piece_id, method_id, 'unattributed', any_value(unattributed), 0, true
FROM v_piece_track_share
GROUP BY piece_id, method_id;
