-- Shares per artist, per query and method, with the unattributed share as a row of its own.
-- training_share and payout are sums of those of tracks (v_track_share). payout_low to payout_high:
-- where the true share of 90 of 100 such payouts lies (data dictionary, "Shares"); null where that
-- was not measured.
CREATE VIEW v_artist_share AS
WITH paid AS (
    SELECT
        query_id,
        method_id,
        artist,
        sum(share::DECIMAL(38, 20))::DOUBLE AS share,
        count(*) FILTER (share > 0) AS tracks,
        sum(training_share::DECIMAL(38, 20))::DOUBLE AS training_share,
        sum(payout::DECIMAL(38, 20))::DOUBLE AS payout
    FROM v_track_share
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
    query_id,
    method_id,
    artist,
    share,
    tracks,
    false AS is_unattributed,
    training_share,
    payout,
    CASE WHEN reach IS NOT NULL THEN greatest(0, payout - reach) END AS payout_low,
    CASE WHEN reach IS NOT NULL THEN least(1, payout + reach) END AS payout_high
FROM reached
UNION ALL
SELECT query_id, method_id, 'unattributed', any_value(unattributed), 0, true, 0, 0, NULL, NULL
FROM v_track_share
GROUP BY query_id, method_id;
