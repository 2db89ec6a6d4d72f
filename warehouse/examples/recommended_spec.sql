-- Which spec is recommended, and does the other half of the targets confirm it?
SELECT experiment, label, method_id, round(self_rank_choosing, 2) AS rank_choosing,
    round(self_rank_confirming, 2) AS rank_confirming, place_confirming, specs
FROM v_recommended_spec;
