-- Shares per rightsholder of a piece, by method, with the unattributed share as a row of its own.
-- Sums to one for each piece and method. is_unattributed tells that row from a rightsholder of the
-- same name.
-- training_share and payout are sums of those of tracks (v_piece_track_share). payout_low to
-- payout_high: as in v_rightsholder_share; what is true of one window is taken to be true of all.
CREATE VIEW v_piece_rightsholder_share AS
WITH paid AS (
    SELECT
        piece_id,
        method_id,
        rightsholder,
        sum(share::DECIMAL(38, 20))::DOUBLE AS share,
        count(*) FILTER (share > 0) AS tracks,
        sum(training_share::DECIMAL(38, 20))::DOUBLE AS training_share,
        sum(payout::DECIMAL(38, 20))::DOUBLE AS payout
    FROM v_piece_track_share
    GROUP BY ALL
),
reached AS (
    SELECT
        p.*,
        m.spread * sqrt(p.payout * (1 - p.payout) + u.interval_floor) AS reach
    FROM paid p
    CROSS JOIN share_rule u
    LEFT JOIN method_support m USING (method_id)
)
SELECT
    piece_id,
    method_id,
    rightsholder,
    share,
    tracks,
    false AS is_unattributed,
    training_share,
    payout,
    CASE WHEN reach IS NOT NULL THEN greatest(0, payout - reach) END AS payout_low,
    CASE WHEN reach IS NOT NULL THEN least(1, payout + reach) END AS payout_high
FROM reached
UNION ALL
SELECT piece_id, method_id, 'unattributed', any_value(unattributed), 0, true, 0, 0, NULL, NULL
FROM v_piece_track_share
GROUP BY piece_id, method_id;
