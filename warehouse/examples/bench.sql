-- Which method is right: how well each foretells what retraining without some tracks does.
SELECT
    label AS method, round(lds, 3) AS lds,
    round(lds_low, 3) || ' to ' || round(lds_high, 3) AS interval,
    round(100 * rise, 2) AS "rise when left out, %", round(planted, 2) AS planted,
    round(seconds_per_query, 2) AS "seconds per query"
FROM v_bench
ORDER BY lds DESC, method_id;
