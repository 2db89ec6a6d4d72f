-- What a method would pay wrongly: its payout error, by cohort, method, assignment of tracks to
-- parties and half of the queries. payout_error: the total variation distance between payouts
-- (v_rightsholder_share) and the true shares that retraining on coalitions of catalogues shows, mean
-- over queries, with its 95 % interval over queries. catalogues: rightsholder (those of dim_track) or
-- unequal (made-up parties with 1 to some 60 tracks). half: '' (all queries), choosing or confirming.
-- pro_rata, equal and power: the errors of paying by seconds trained on, everybody alike, and by a
-- power of the catalogue's size that was fitted on the choosing half. difference: payout_error less
-- the least of these three, with its 95 % interval. rank_correlation: Spearman's, over parties.
-- exact_error: what exact shares would be measured to have, because the truth is an estimate;
-- truth_halves and truth_seeds: correlation within a query of the values from two halves of the
-- coalitions and from two seeds.
CREATE VIEW v_payout AS
WITH figures AS (
    SELECT
        subject AS cohort,
        method_id,
        split_part(detail, ', ', 1) AS catalogues,
        split_part(detail, ', ', 2) AS half,
        metric,
        value
    FROM fct_evaluation
    -- Figures of all assignments together (the method's support) have no detail.
    WHERE evaluation = 'payout' AND detail <> '' AND subject IN (SELECT cohort FROM dim_query)
),
pivoted AS (
    SELECT
        cohort, method_id, catalogues, half,
        max(value) FILTER (metric = 'payout_error') AS payout_error,
        max(value) FILTER (metric = 'payout_error_low') AS low,
        max(value) FILTER (metric = 'payout_error_high') AS high,
        max(value) FILTER (metric = 'payout_error_pro_rata') AS pro_rata,
        max(value) FILTER (metric = 'payout_error_equal') AS equal,
        max(value) FILTER (metric = 'payout_error_power') AS power,
        max(value) FILTER (metric = 'payout_difference') AS difference,
        max(value) FILTER (metric = 'payout_difference_low') AS difference_low,
        max(value) FILTER (metric = 'payout_difference_high') AS difference_high,
        max(value) FILTER (metric = 'payout_rank_correlation') AS rank_correlation
    FROM figures
    GROUP BY ALL
),
truth AS (
    SELECT
        cohort, method_id, catalogues,
        max(value) FILTER (metric = 'truth_exact_error') AS exact_error,
        max(value) FILTER (metric = 'truth_halves_correlation') AS truth_halves,
        max(value) FILTER (metric = 'truth_seeds_correlation') AS truth_seeds
    FROM figures
    GROUP BY ALL
)
SELECT p.*, t.exact_error, t.truth_halves, t.truth_seeds
FROM pivoted p
JOIN truth t USING (cohort, method_id, catalogues);
