-- Which method is right: how well each foretells what retraining without some tracks does, by the
-- evidence that shares are made of and by its raw scores.
SELECT
    label AS method, round(evidence_lds, 3) AS evidence_lds,
    round(evidence_lds_low, 3) || ' to ' || round(evidence_lds_high, 3) AS interval,
    round(lds, 3) AS lds,
    round(100 * rise, 2) AS "rise when left out, %", round(planted, 2) AS planted,
    round(seconds_per_query, 2) AS "seconds per query"
FROM v_bench
ORDER BY evidence_lds DESC NULLS LAST, lds DESC, method_id;
