-- Which spec ranks targets first? Rank of a training segment under its own unlearning, 1 is perfect.
SELECT label, targets, round(self_rank_mean, 2) AS mean_rank, round(share_rank_1, 3) AS at_rank_1,
    round(topk_similarity, 3) AS top_similarity, round(bottomk_similarity, 3) AS bottom_similarity,
    round(heldout_loss_rise, 5) AS heldout_rise
FROM v_experiment_spec
WHERE self_rank_mean IS NOT NULL
ORDER BY self_rank_mean, topk_similarity - bottomk_similarity DESC;
