-- One row per experiment and method spec: the axes of the grid, and figures averaged over queries.
-- self_rank_*: rank of a target under its own unlearning. *_similarity: mean similarity (timbre) of
-- the ten most and least attributed tracks to the query. frechet_*: generations before and after
-- unlearning; frechet_null: what other seeds alone do. _choosing, _confirming: halves of the
-- targets.
CREATE VIEW v_experiment_spec AS
WITH figures AS (
    SELECT
        experiment,
        method_id,
        count(DISTINCT query_id) AS targets,
        avg(value ORDER BY query_id) FILTER (metric = 'self_influence_rank') AS self_rank_mean,
        median(value) FILTER (metric = 'self_influence_rank') AS self_rank_median,
        avg((value = 1)::INT) FILTER (metric = 'self_influence_rank') AS share_rank_1,
        avg(value ORDER BY query_id) FILTER (metric = 'topk_similarity' AND detail = 'timbre')
            AS topk_similarity,
        avg(value ORDER BY query_id) FILTER (metric = 'bottomk_similarity' AND detail = 'timbre')
            AS bottomk_similarity,
        avg(value ORDER BY query_id) FILTER (metric = 'topk_similarity' AND detail = 'clap')
            AS topk_clap,
        avg(value ORDER BY query_id) FILTER (metric = 'bottomk_similarity' AND detail = 'clap')
            AS bottomk_clap,
        avg(value ORDER BY query_id) FILTER (metric = 'query_loss_rise') AS query_loss_rise,
        avg(value ORDER BY query_id) FILTER (metric = 'heldout_loss_rise') AS heldout_loss_rise,
        avg(value ORDER BY query_id) FILTER (metric = 'relative_weight_change')
            AS relative_weight_change
    FROM v_experiment_figure
    GROUP BY experiment, method_id
),
halves AS (
    SELECT
        experiment,
        method_id,
        half,
        avg(value ORDER BY query_id) FILTER (metric = 'self_influence_rank') AS self_rank,
        avg(value ORDER BY query_id) FILTER (metric = 'topk_similarity' AND detail = 'timbre')
            - avg(value ORDER BY query_id)
                FILTER (metric = 'bottomk_similarity' AND detail = 'timbre') AS similarity_gap,
        avg(value ORDER BY query_id) FILTER (metric = 'heldout_loss_rise') AS heldout_rise
    FROM v_experiment_figure
    GROUP BY experiment, method_id, half
),
fidelity AS (
    SELECT
        x.experiment,
        x.method_id,
        avg(e.value) FILTER (e.detail = 'unlearned' AND e.metric = 'frechet_distance')
            AS frechet_distance,
        avg(e.value) FILTER (e.detail = 'unlearned' AND e.metric = 'frechet_low') AS frechet_low,
        avg(e.value) FILTER (e.detail = 'unlearned' AND e.metric = 'frechet_high') AS frechet_high,
        avg(e.value) FILTER (e.detail = 'other seeds' AND e.metric = 'frechet_distance')
            AS frechet_null,
        avg(e.value) FILTER (e.detail = 'other seeds' AND e.metric = 'frechet_low')
            AS frechet_null_low,
        avg(e.value) FILTER (e.detail = 'other seeds' AND e.metric = 'frechet_high')
            AS frechet_null_high,
        avg(e.value) FILTER (e.detail = 'unlearned' AND e.metric = 'pieces') AS pieces
    FROM dim_experiment x
    JOIN fct_evaluation e
        ON e.method_id = x.method_id AND e.subject = x.cohort AND e.evaluation = 'generations'
    GROUP BY x.experiment, x.method_id
)
SELECT
    f.experiment,
    f.method_id,
    m.method,
    m.label,
    m.config->>'$.unlearning.layer_group' AS layer_group,
    (m.config->>'$.unlearning.mask_padding')::BOOLEAN AS mask_unlearning,
    (m.config->>'$.scoring.mask_padding')::BOOLEAN AS mask_loss,
    (m.config->>'$.unlearning.learning_rate')::DOUBLE AS learning_rate,
    (m.config->>'$.unlearning.steps')::BIGINT AS steps,
    (m.config->>'$.unlearning.damping')::DOUBLE AS damping,
    m.config->>'$.scoring.score' AS score,
    f.* EXCLUDE (experiment, method_id),
    d.* EXCLUDE (experiment, method_id),
    a.self_rank AS self_rank_choosing,
    b.self_rank AS self_rank_confirming,
    a.similarity_gap AS similarity_gap_choosing,
    b.similarity_gap AS similarity_gap_confirming,
    a.heldout_rise AS heldout_rise_choosing,
    b.heldout_rise AS heldout_rise_confirming
FROM figures f
JOIN dim_method m USING (method_id)
LEFT JOIN fidelity d USING (experiment, method_id)
LEFT JOIN halves a
    ON a.experiment = f.experiment AND a.method_id = f.method_id AND a.half = 'choosing'
LEFT JOIN halves b
    ON b.experiment = f.experiment AND b.method_id = f.method_id AND b.half = 'confirming';
