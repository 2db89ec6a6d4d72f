-- What the study cost: seconds and bytes per asset, live artifacts only.
SELECT asset, count(*) AS artifacts, round(sum(seconds), 1) AS seconds,
    round(sum(size_bytes) / 1e6, 2) AS megabytes
FROM dim_artifact WHERE is_live
GROUP BY asset ORDER BY seconds DESC, asset;
