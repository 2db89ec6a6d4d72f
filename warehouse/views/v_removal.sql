-- What leaving the most attributed tracks out of training did, per cohort, method and number of
-- tracks. rise: mean over queries of the rise of the query's loss, relative to what it was, with its
-- standard error; similar_*: how alike the piece regenerated then is. removed_tracks is null in
-- figures of earlier versions, which left one number of tracks out and did not say it.
CREATE VIEW v_removal AS
WITH figures AS (
    SELECT
        q.cohort, e.method_id, e.subject, e.metric, e.value,
        split_part(e.detail, ',', 1) AS embedding,
        TRY_CAST(nullif(regexp_extract(e.detail, '(\d+) tracks?$', 1), '') AS BIGINT)
            AS removed_tracks
    FROM fct_evaluation e
    JOIN dim_query q ON q.query_id = e.subject
    WHERE e.evaluation = 'removal'
)
SELECT
    cohort,
    method_id,
    removed_tracks,
    count(*) FILTER (metric = 'relative_loss_rise') AS queries,
    avg(value ORDER BY subject) FILTER (metric = 'relative_loss_rise') AS rise,
    stddev(value ORDER BY subject) FILTER (metric = 'relative_loss_rise')
        / sqrt(count(*) FILTER (metric = 'relative_loss_rise')) AS rise_se,
    avg(value ORDER BY subject)
        FILTER (metric = 'regenerated_similarity' AND embedding = 'timbre') AS similar_timbre,
    avg(value ORDER BY subject)
        FILTER (metric = 'regenerated_similarity' AND embedding = 'melody') AS similar_melody
FROM figures
GROUP BY cohort, method_id, removed_tracks;
