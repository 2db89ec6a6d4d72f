-- Evidence and share of every training segment, per query and method.
-- z, evidence, unattributed and share are defined in the data dictionary ("Shares"). Only training
-- segments count: others may be scored, as a control, but shaped nothing.
CREATE VIEW v_segment_share AS
-- The threads of DuckDB add floats in an order of their own, so the last digits would differ between
-- runs. Evidence is therefore added in a fixed order, and shares, in the views built on this one, as
-- decimals, whose sum is exact.
WITH scored AS (
    SELECT s.*
    FROM fct_score s JOIN dim_segment g USING (segment_id)
    WHERE g.split = 'train'
),
centre AS (
    SELECT query_id, method_id, median(score) AS median_score, count(*) AS segments
    FROM scored
    GROUP BY ALL
),
spread AS (
    SELECT s.query_id, s.method_id, 1.4826 * median(abs(s.score - c.median_score)) AS robust_sd
    FROM scored s JOIN centre c USING (query_id, method_id)
    GROUP BY ALL
),
standardised AS (
    SELECT
        s.*,
        c.segments,
        CASE WHEN d.robust_sd > 0 THEN (s.score - c.median_score) / d.robust_sd ELSE 0 END AS z
    FROM scored s
    JOIN centre c USING (query_id, method_id)
    JOIN spread d USING (query_id, method_id)
),
weighed AS (
    SELECT t.*, greatest(0, t.z - r.threshold_z) AS evidence, r.null_excess,
        r.min_reliability
    FROM standardised t CROSS JOIN share_rule r
),
totals AS (
    SELECT
        query_id,
        method_id,
        any_value(segments * null_excess) AS null_evidence,
        any_value(min_reliability) AS min_reliability,
        coalesce(sum(evidence ORDER BY segment_id) FILTER (evidence > 0), 0) AS total_evidence
    FROM weighed
    GROUP BY query_id, method_id
),
abstained AS (
    SELECT
        t.*,
        CASE
            WHEN r.reliability < t.min_reliability THEN 1
            WHEN t.total_evidence > 0 THEN least(1, t.null_evidence / t.total_evidence)
            ELSE 1
        END AS unattributed
    FROM totals t
    JOIN v_query_reliability r USING (query_id, method_id)
)
SELECT
    w.query_id,
    w.method_id,
    w.segment_id,
    g.track_id,
    w.rank,
    w.score,
    w.score_se,
    w.z,
    w.evidence,
    CASE WHEN t.total_evidence > 0
        THEN (1 - t.unattributed) * w.evidence / t.total_evidence ELSE 0 END AS share,
    t.unattributed
FROM weighed w
JOIN abstained t USING (query_id, method_id)
JOIN dim_segment g USING (segment_id);
