-- The bench: what each method is worth, held against what retraining showed, and what it costs.
-- lds: linear datamodelling score, with its 95 % interval; its halves are of different queries and
-- subsets: the first half of both, and the second. evidence_lds: the same, with what shares are made
-- of in the scores' place. rise: of a query's loss when the most attributed tracks were left out,
-- relative, with its standard error over queries; similar_*: how alike the piece regenerated then is;
-- of the largest number of tracks that were left out (v_removal has all).
-- payout_error: the part of the money that goes to the wrong rightsholders, and to the wrong ones of
-- very unequal catalogues (v_payout has intervals and what to compare it with); null where nothing
-- was trained on coalitions.
-- planted_*: average precision of finding what was made of a held-out excerpt (one track: 1 / its
-- rank).
CREATE VIEW v_bench AS
WITH cohorts AS (
    SELECT cohort, count(*) AS queries FROM dim_query GROUP BY cohort
),
scored AS (
    SELECT
        subject AS cohort, method_id,
        max(value) FILTER (metric = 'lds' AND detail = '') AS lds,
        max(value) FILTER (metric = 'lds_low' AND detail = '') AS lds_low,
        max(value) FILTER (metric = 'lds_high' AND detail = '') AS lds_high,
        max(value) FILTER (metric = 'lds' AND detail = 'choosing') AS lds_choosing,
        max(value) FILTER (metric = 'lds' AND detail = 'confirming') AS lds_confirming,
        max(value) FILTER (metric = 'lds_low' AND detail = 'confirming') AS lds_confirming_low,
        max(value) FILTER (metric = 'lds_high' AND detail = 'confirming') AS lds_confirming_high,
        max(value) FILTER (metric = 'evidence_lds' AND detail = '') AS evidence_lds,
        max(value) FILTER (metric = 'evidence_lds_low' AND detail = '') AS evidence_lds_low,
        max(value) FILTER (metric = 'evidence_lds_high' AND detail = '') AS evidence_lds_high,
        max(value) FILTER (metric = 'evidence_lds' AND detail = 'choosing')
            AS evidence_lds_choosing,
        max(value) FILTER (metric = 'evidence_lds' AND detail = 'confirming')
            AS evidence_lds_confirming,
        max(value) FILTER (metric = 'evidence_lds_low' AND detail = 'confirming')
            AS evidence_lds_confirming_low,
        max(value) FILTER (metric = 'evidence_lds_high' AND detail = 'confirming')
            AS evidence_lds_confirming_high,
        max(value) FILTER (metric = 'noise_ceiling') AS noise_ceiling
    FROM fct_evaluation
    WHERE evaluation = 'datamodel' AND subject IN (SELECT cohort FROM cohorts)
    GROUP BY subject, method_id
),
paid AS (
    SELECT
        cohort, method_id,
        max(payout_error) FILTER (catalogues = 'rightsholder') AS payout_error,
        max(payout_error) FILTER (catalogues = 'unequal') AS payout_error_unequal
    FROM v_payout
    WHERE half = ''
    GROUP BY cohort, method_id
),
removed AS (
    SELECT * EXCLUDE (removed_tracks, queries) FROM v_removal
    QUALIFY row_number() OVER (
        PARTITION BY cohort, method_id ORDER BY removed_tracks DESC NULLS LAST
    ) = 1
),
planted AS (
    SELECT
        r.method_id,
        avg(1 / track_rank ORDER BY r.query_id) AS planted,
        avg(1 / track_rank ORDER BY r.query_id) FILTER (version_kind = 'copy') AS planted_copy,
        avg(1 / track_rank ORDER BY r.query_id)
            FILTER (version_kind = 'instruments') AS planted_version,
        avg(1 / track_rank ORDER BY r.query_id) FILTER (version_kind = 'mix') AS planted_mix
    FROM v_version_recall r
    JOIN dim_segment g ON g.segment_id = r.query_segment_id
    WHERE g.split = 'heldout'
    GROUP BY r.method_id
),
cost AS (
    SELECT
        split_part(partition, '|', 1) AS cohort, split_part(partition, '|', 2) AS method_id,
        sum(seconds ORDER BY asset) AS seconds, sum(size_bytes) AS bytes
    FROM dim_artifact
    WHERE is_live
        AND asset IN ('unlearned/checkpoints', 'unlearned/losses', 'attribution/scores')
    GROUP BY ALL
)
SELECT
    s.cohort, s.method_id, m.method, m.label, m.family,
    s.* EXCLUDE (cohort, method_id),
    y.* EXCLUDE (cohort, method_id),
    r.* EXCLUDE (cohort, method_id),
    p.* EXCLUDE (method_id),
    c.seconds / n.queries AS seconds_per_query,
    c.bytes / n.queries AS bytes_per_query
FROM scored s
JOIN dim_method m USING (method_id)
JOIN cohorts n USING (cohort)
LEFT JOIN paid y USING (cohort, method_id)
LEFT JOIN removed r USING (cohort, method_id)
LEFT JOIN planted p USING (method_id)
LEFT JOIN cost c USING (cohort, method_id);
