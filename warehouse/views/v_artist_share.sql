-- Shares per artist, per query and method, with the unattributed share as a row of its own.
-- training_share and payout are sums of those of tracks (v_track_share).
CREATE VIEW v_artist_share AS
SELECT
    query_id,
    method_id,
    artist,
    sum(share::DECIMAL(38, 20))::DOUBLE AS share,
    count(*) FILTER (share > 0) AS tracks,
    false AS is_unattributed,
    sum(training_share::DECIMAL(38, 20))::DOUBLE AS training_share,
    sum(payout::DECIMAL(38, 20))::DOUBLE AS payout
FROM v_track_share
GROUP BY ALL
UNION ALL
SELECT query_id, method_id, 'unattributed', any_value(unattributed), 0, true, 0, 0
FROM v_track_share
GROUP BY query_id, method_id;
