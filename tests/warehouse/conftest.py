"""A small warehouse's tables, which the tests of this room share."""

import numpy as np
import polars as pl
import pytest


@pytest.fixture
def tables() -> dict[str, pl.DataFrame]:
    """Twelve tracks of two segments, three queries, two methods, seeded scores."""
    rng = np.random.default_rng(0)
    tracks = [f"t{i:02d}" for i in range(12)]
    text = dict.fromkeys(("composer", "key", "instruments", "caption", "licence", "audio"), "x")
    dim_track = pl.DataFrame(
        [
            {
                "track_id": t,
                "title": "Robert'); DROP TABLE dim_track;-- <script>" if i == 0 else f"title {i}",
                "artist": f"artist {i % 4}",
                "rightsholder": ["north", "south", "unattributed"][i % 3],
                "collection": f"collection {i % 2}",
                "tempo_bpm": 90.0,
                "version_of": None,
                "version_kind": None,
                "split": "train",
                "audio_sha256": f"{i:064d}",
                "sample_rate_hz": 16000,
                "channels": 1,
                "duration_s": 5.0,
                **text,
            }
            for i, t in enumerate(tracks)
        ],
        schema_overrides={"version_of": pl.String, "version_kind": pl.String},
    )
    segments = [(f"{t}:{k:04d}", t, k) for t in tracks for k in range(2)]
    dim_segment = pl.DataFrame(
        [
            {
                "segment_id": s,
                "track_id": t,
                "segment_index": k,
                "start_s": 2.5 * k,
                "seconds_total": 5.0,
                "samples": 100,
                "valid_samples": 90,
                "frames": 10,
                "valid_frames": 9,
                "split": "train",
                "segment_sha256": "0" * 64,
            }
            for s, t, k in segments
        ]
    )
    queries = [f"c-{i:03d}" for i in range(3)]
    dim_query = pl.DataFrame(
        [
            {
                "query_id": q,
                "cohort": "c",
                "query_index": i,
                "kind": "generated",
                "prompt": "p",
                "negative_prompt": "",
                "seed": i,
                "guidance_scale": 3.0,
                "inference_steps": 10,
                "segment_id": None,
                "source": None,
                "seconds": 5.0,
                "frames": 10,
                "valid_frames": 9,
                "audio_sha256": "0" * 64,
                "piece_id": q,
                "window_index": 0,
                "start_s": 0.0,
                "silent": False,
            }
            for i, q in enumerate(queries)
        ],
        schema_overrides={"segment_id": pl.String, "source": pl.String},
    )
    dim_method = pl.DataFrame(
        [
            {"method_id": m, "method": m, "label": m, "family": "unlearning", "config": "{}"}
            for m in ("m1", "m2")
        ]
    )
    scores = []
    for q in queries:
        for m in ("m1", "m2"):
            values = rng.normal(size=len(segments))
            values[rng.integers(len(segments))] += 9.0
            order = np.argsort(-values)
            ranks = np.empty(len(values), dtype=int)
            ranks[order] = np.arange(1, len(values) + 1)
            for (s, _, _), value, rank in zip(segments, values, ranks, strict=True):
                scores.append(
                    {
                        "query_id": q,
                        "method_id": m,
                        "segment_id": s,
                        "score": float(value),
                        "score_se": 0.1,
                        "rank": int(rank),
                    }
                )
    rule = pl.DataFrame(
        {
            "threshold_z": [2.0],
            "null_excess": [0.008490702616829646],
            "min_reliability": [0.0],
            "min_prominence": [0.0],
        }
    )
    return {
        "dim_track": dim_track,
        "dim_segment": dim_segment,
        "dim_query": dim_query,
        "dim_method": dim_method,
        "fct_score": pl.DataFrame(scores),
        "share_rule": rule,
    }
