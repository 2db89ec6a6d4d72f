-- Figures of each method, averaged over queries: drift, concentration, self-influence.
SELECT metric, label, round(value, 6) AS mean, round(lowest, 6) AS lowest,
    round(highest, 6) AS highest, queries, direction
FROM v_method_leaderboard
ORDER BY metric, label;
