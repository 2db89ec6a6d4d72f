-- What is stale: live artifacts that the present code, settings or inputs would make anew.
-- Empty right after a run.
SELECT asset, partition, reason FROM v_stale_artifact ORDER BY asset, partition;
