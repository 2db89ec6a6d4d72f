-- Live artifacts that the present code, settings or inputs would make anew, and why.
-- An artifact is stale when its code or settings changed, when one of its inputs is no longer the
-- live one, or when an input is itself stale.
CREATE VIEW v_stale_artifact AS
WITH RECURSIVE live AS (
    SELECT * FROM dim_artifact WHERE is_live
),
direct AS (
    SELECT a.recipe_key, a.asset, a.partition, 'code version changed' AS reason
    FROM live a JOIN dim_asset_state s USING (asset, partition)
    WHERE a.code_version <> s.code_version
    UNION ALL
    SELECT a.recipe_key, a.asset, a.partition, 'settings changed'
    FROM live a JOIN dim_asset_state s USING (asset, partition)
    WHERE a.config_digest <> s.config_digest
    UNION ALL
    SELECT a.recipe_key, a.asset, a.partition, 'input ' || i.asset || ' was replaced'
    FROM live a
    JOIN lineage_edge e USING (recipe_key)
    JOIN dim_artifact i ON i.recipe_key = e.input_recipe_key
    WHERE NOT EXISTS (
        SELECT 1 FROM live l
        WHERE l.asset = i.asset AND l.partition = i.partition
            AND l.artifact_digest = e.input_digest
    )
),
stale AS (
    SELECT * FROM direct
    UNION
    SELECT a.recipe_key, a.asset, a.partition, 'input ' || s.asset || ' is stale'
    FROM stale s
    JOIN live l ON l.recipe_key = s.recipe_key
    JOIN lineage_edge e ON e.input_digest = l.artifact_digest
    JOIN live a ON a.recipe_key = e.recipe_key
)
SELECT asset, partition, string_agg(DISTINCT reason, '; ' ORDER BY reason) AS reason
FROM stale
GROUP BY asset, partition;
