-- The ten highest-ranked training segments of each query and method, with what they are.
CREATE VIEW v_top_segment AS
SELECT
    s.query_id, s.method_id, s.rank, s.segment_id, s.track_id, t.title, t.artist,
    t.rightsholder, g.start_s, s.score, s.score_se, s.z, s.share
FROM v_segment_share s
JOIN dim_segment g USING (segment_id)
JOIN dim_track t ON t.track_id = s.track_id
WHERE s.rank <= 10;
