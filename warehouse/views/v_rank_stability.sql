-- How far chance in the draws could move a segment: the interval of its score, score_low to
-- score_high = score -/+ 1.96 standard errors, and the ranks among training segments that it would
-- have at the ends of it while the others stay where they are. rank_best: 1 + the segments whose
-- score exceeds score_high; rank_worst: the segments whose score is at least score_low, itself among
-- them. Training segments of methods that have a standard error.
CREATE VIEW v_rank_stability AS
WITH scored AS (
    SELECT
        s.*,
        1.96 * coalesce(s.score_se, 0) AS reach
    FROM fct_score s
    JOIN dim_segment g USING (segment_id)
    WHERE g.split = 'train'
),
-- Counted along the order of scores: comparing each segment with each takes far longer.
counted AS (
    SELECT
        *,
        score - reach AS score_low,
        score + reach AS score_high,
        count(*) OVER (PARTITION BY query_id, method_id) AS segments,
        count(*) OVER (
            PARTITION BY query_id, method_id ORDER BY score
            RANGE BETWEEN UNBOUNDED PRECEDING AND reach FOLLOWING
        ) AS not_above,
        count(*) OVER (
            PARTITION BY query_id, method_id ORDER BY score
            RANGE BETWEEN reach PRECEDING AND UNBOUNDED FOLLOWING
        ) AS rank_worst
    FROM scored
)
SELECT
    query_id, method_id, segment_id, score, score_se, score_low, score_high,
    1 + segments - not_above AS rank_best,
    rank_worst
FROM counted
WHERE score_se IS NOT NULL;
