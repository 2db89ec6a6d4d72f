-- Every artifact with everything it was made from, however far back: one row per live artifact
-- (root_*) and ancestor, with the shortest distance.
CREATE VIEW v_lineage AS
WITH RECURSIVE walk AS (
    SELECT recipe_key AS root_key, recipe_key, 0 AS depth FROM dim_artifact WHERE is_live
    UNION
    SELECT w.root_key, e.input_recipe_key, w.depth + 1
    FROM walk w JOIN lineage_edge e USING (recipe_key)
    WHERE e.input_recipe_key IS NOT NULL
)
SELECT
    r.asset AS root_asset,
    r.partition AS root_partition,
    min(w.depth) AS depth,
    a.asset,
    a.partition,
    a.artifact_digest,
    a.recipe_key,
    a.code_version
FROM walk w
JOIN dim_artifact r ON r.recipe_key = w.root_key
JOIN dim_artifact a ON a.recipe_key = w.recipe_key
GROUP BY ALL;
