-- Which methods find versions: where other renditions of a query's excerpt rank, per cohort, method
-- and kind of version.
CREATE VIEW v_version_recall_summary AS
SELECT
    cohort,
    method_id,
    version_kind,
    count(*) AS renditions,
    median(track_rank) AS median_rank,
    avg((track_rank <= 10)::INT) AS share_top_10,
    avg(1 / track_rank ORDER BY query_id, track_id) AS mean_reciprocal_rank
FROM v_version_recall
GROUP BY cohort, method_id, version_kind;
