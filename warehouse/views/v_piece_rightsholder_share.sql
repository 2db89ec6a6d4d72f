-- Shares per rightsholder of a piece, by method, with the unattributed share as a row of its own.
-- Sums to one for each piece and method. is_unattributed tells that row from a rightsholder of the
-- same name.
-- training_share and payout are sums of those of tracks (v_piece_track_share).
CREATE VIEW v_piece_rightsholder_share AS
SELECT
    piece_id,
    method_id,
    rightsholder,
    sum(share::DECIMAL(38, 20))::DOUBLE AS share,
    count(*) FILTER (share > 0) AS tracks,
    false AS is_unattributed,
    sum(training_share::DECIMAL(38, 20))::DOUBLE AS training_share,
    sum(payout::DECIMAL(38, 20))::DOUBLE AS payout
FROM v_piece_track_share
GROUP BY ALL
UNION ALL
SELECT piece_id, method_id, 'unattributed', any_value(unattributed), 0, true, 0, 0
FROM v_piece_track_share
GROUP BY piece_id, method_id;
