"""Which tracks a counterfactual training is without.

What belongs here: the choice of subsets and of removed tracks. How scores are held against what
came of it is in `datamodel`.
"""

from collections.abc import Sequence

import polars as pl
import torch

from tda_dagster.attribution.scoring import evidence
from tda_dagster.diffusion.noise import keyed_generator


def random_subsets(
    track_ids: Sequence[str], count: int, fraction: float, seed: int
) -> list[tuple[str, ...]]:
    """`count` random subsets of the tracks, each of round(`fraction` · n) tracks, sorted.

    Tracks leave whole, with all their segments: neighbours in a recording stand in for each other,
    and it is tracks that somebody owns. The i-th subset depends on (seed, i) and the ids alone.
    """
    ids = sorted(track_ids)
    kept = round(fraction * len(ids))
    subsets = []
    for index in range(count):
        order = torch.randperm(len(ids), generator=keyed_generator(seed, "subset", str(index)))
        subsets.append(tuple(sorted(ids[place] for place in order[:kept].tolist())))
    return subsets


def most_attributed(
    scores: pl.DataFrame, segments: pl.DataFrame, k: int, threshold_z: float
) -> tuple[str, ...]:
    """The `k` tracks of most evidence, best first, as shares are ordered: ties (tracks without any
    evidence among them) by their best segment's score, then by track id.

    `scores` has `segment_id` and `score` of one query, `segments` `segment_id` and `track_id`.
    """
    found = evidence(scores["score"].to_numpy(), threshold_z)
    tracks = (
        scores.with_columns(evidence=pl.Series(found))
        .join(segments.select("segment_id", "track_id"), on="segment_id")
        .sort("segment_id")
        .group_by("track_id")
        .agg(pl.col("evidence").sum(), pl.col("score").max())
        .sort(["evidence", "score", "track_id"], descending=[True, True, False])
    )
    return tuple(tracks["track_id"].head(k))


def removed_tracks(
    scores: pl.DataFrame,
    segments: pl.DataFrame,
    queries: Sequence[str],
    k: int,
    threshold_z: float,
) -> dict[str, tuple[str, ...]]:
    """`most_attributed` of each of the queries, by query; `scores` has a `query_id`, too."""
    return {
        query: most_attributed(scores.filter(query_id=query), segments, k, threshold_z)
        for query in queries
    }
