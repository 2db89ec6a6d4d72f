-- The recommended spec of each experiment that is a grid: one method, training segments as targets.
-- (Of several methods none is recommended by self-influence: a similarity finds itself by
-- definition.) The rule, on the choosing half of the targets: the lowest mean rank of a target under
-- its own unlearning; where that is equal, the largest gap in similarity between the most and the
-- least attributed tracks; then the lowest rise of held-out loss. place_confirming: its place among
-- all specs by the same rule on the confirming half.
CREATE VIEW v_recommended_spec AS
WITH placed AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY experiment
            ORDER BY round(self_rank_choosing, 9), similarity_gap_choosing DESC,
                heldout_rise_choosing, method_id
        ) AS place_choosing,
        row_number() OVER (
            PARTITION BY experiment
            ORDER BY round(self_rank_confirming, 9), similarity_gap_confirming DESC,
                heldout_rise_confirming, method_id
        ) AS place_confirming,
        count(*) OVER (PARTITION BY experiment) AS specs
    FROM v_experiment_spec
    WHERE self_rank_choosing IS NOT NULL
        AND experiment IN (
            SELECT experiment FROM v_experiment_spec GROUP BY ALL HAVING count(DISTINCT method) = 1
        )
)
SELECT * FROM placed WHERE place_choosing = 1;
