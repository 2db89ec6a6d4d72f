-- Evidence and share of every training segment, per query and method.
-- z, evidence, unattributed and share are defined in the data dictionary ("Shares").
CREATE VIEW v_segment_share AS
WITH centre AS (
    SELECT query_id, method_id, median(score) AS median_score, count(*) AS segments
    FROM fct_score
    GROUP BY ALL
),
spread AS (
    SELECT s.query_id, s.method_id, 1.4826 * median(abs(s.score - c.median_score)) AS robust_sd
    FROM fct_score s JOIN centre c USING (query_id, method_id)
    GROUP BY ALL
),
standardised AS (
    SELECT
        s.*,
        c.segments,
        CASE WHEN d.robust_sd > 0 THEN (s.score - c.median_score) / d.robust_sd ELSE 0 END AS z
    FROM fct_score s
    JOIN centre c USING (query_id, method_id)
    JOIN spread d USING (query_id, method_id)
),
weighed AS (
    SELECT t.*, greatest(0, t.z - r.threshold_z) AS evidence, r.null_excess
    FROM standardised t CROSS JOIN share_rule r
),
totals AS (
    SELECT
        query_id,
        method_id,
        sum(evidence) AS total_evidence,
        CASE
            WHEN sum(evidence) > 0 THEN least(1, any_value(segments * null_excess) / sum(evidence))
            ELSE 1
        END AS unattributed
    FROM weighed
    GROUP BY ALL
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
JOIN totals t USING (query_id, method_id)
JOIN dim_segment g USING (segment_id);
