-- Which methods find versions? Where other renditions of a query's excerpt rank among all tracks.
SELECT v.cohort, v.version_kind, m.label AS method, v.renditions, v.median_rank,
    round(v.share_top_10, 3) AS in_top_10, round(v.mean_reciprocal_rank, 3) AS reciprocal_rank
FROM v_version_recall_summary v JOIN dim_method m USING (method_id)
ORDER BY v.cohort, v.version_kind, v.mean_reciprocal_rank DESC;
