-- Evidence and share of every training segment, per query and method.
-- z, evidence, unattributed and share are defined in the data dictionary ("Shares"). Only training
-- segments count: others may be scored, as a control, but shaped nothing.
CREATE VIEW v_segment_share AS
-- The threads of DuckDB add floats in an order of their own, so the last digits would differ between
-- runs. Evidence is therefore added in a fixed order, and shares, in the views built on this one, as
-- decimals, whose sum is exact.
WITH weighed AS (
    SELECT
        s.*,
        g.track_id,
        r.segments,
        r.reliability,
        r.prominence,
        CASE WHEN r.robust_sd > 0 THEN (s.score - r.median_score) / r.robust_sd ELSE 0 END AS z,
        greatest(0, z - u.threshold_z) AS evidence
    FROM fct_score s
    JOIN dim_segment g USING (segment_id)
    JOIN v_query_reliability r USING (query_id, method_id)
    CROSS JOIN share_rule u
    WHERE g.split = 'train'
),
totals AS (
    SELECT
        query_id, method_id, segments, reliability, prominence,
        coalesce(sum(evidence ORDER BY segment_id) FILTER (evidence > 0), 0) AS total_evidence
    FROM weighed
    GROUP BY query_id, method_id, segments, reliability, prominence
),
abstained AS (
    SELECT
        t.*,
        CASE
            WHEN t.reliability < u.min_reliability OR t.prominence < u.min_prominence THEN 1
            WHEN t.total_evidence > 0 THEN
                1 - coalesce(m.support, 1)
                    * (1 - least(1, t.segments * u.null_excess / t.total_evidence))
            ELSE 1
        END AS unattributed
    FROM totals t
    CROSS JOIN share_rule u
    LEFT JOIN method_support m USING (method_id)
)
SELECT
    w.query_id,
    w.method_id,
    w.segment_id,
    w.track_id,
    w.rank,
    w.score,
    w.score_se,
    w.z,
    w.evidence,
    CASE WHEN t.total_evidence > 0
        THEN (1 - t.unattributed) * w.evidence / t.total_evidence ELSE 0 END AS share,
    t.unattributed
FROM weighed w
JOIN abstained t USING (query_id, method_id);
