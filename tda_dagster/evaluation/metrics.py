"""Figures about an attribution, each a row of `fct_evaluation`.

What belongs here: what is computed from losses, scores and deltas. Figures of audio are in
`reconstruction`.
"""

from collections.abc import Callable

import numpy as np
import polars as pl

EVALUATION_SCHEMA = {
    "evaluation": pl.String,
    "subject": pl.String,
    "method_id": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "unit": pl.String,
    "direction": pl.String,
    "detail": pl.String,
}


def row(
    evaluation: str,
    subject: str,
    metric: str,
    value: float,
    *,
    method_id: str | None = None,
    unit: str = "",
    direction: str = "none",
    detail: str = "",
) -> dict[str, object]:
    """One figure; `direction` says which way is better: higher, lower or none."""
    return {
        "evaluation": evaluation,
        "subject": subject,
        "method_id": method_id,
        "metric": metric,
        "value": float(value),
        "unit": unit,
        "direction": direction,
        "detail": detail,
    }


def loss_rise(base: pl.DataFrame, unlearned: pl.DataFrame, segments: pl.Series) -> float:
    """Mean over segments and draws of the loss after minus before unlearning."""
    chosen = segments.to_frame("segment_id")
    after = unlearned.join(chosen, on="segment_id", how="semi")
    paired = base.join(after, on=["segment_id", "draw"], suffix="_unlearned")
    rise = (paired["loss_unlearned"] - paired["loss"]).mean()
    assert isinstance(rise, float)
    return rise


def relative_loss_rises(losses: pl.DataFrame) -> pl.DataFrame:
    """By query and number of left-out tracks, the rise of the query's loss relative to what it was.

    `losses` has a row per `query_id`, `tracks` (how many were left out) and draw: `loss` without
    the tracks and `loss_base` with them, under the same draw. Returns `query_id`, `tracks`, and
    `rise`, mean(loss − loss_base) / mean(loss_base); where the most attributed 1 % of the tracks
    were left out, the QLD of leave-top-out studies.
    """
    return losses.group_by("query_id", "tracks").agg(
        rise=(pl.col("loss") - pl.col("loss_base")).mean() / pl.col("loss_base").mean()
    )


def half_coverage(
    score: Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame],
    base: pl.DataFrame,
    unlearned: pl.DataFrame,
) -> float | None:
    """How often the 95 % intervals of two scores of the same segment meet as they should: one score
    from the even draws of the sweeps and one from the odd ones. The share of segments for which
    they lie within 1.96 standard errors of their difference; 0.95 if errors are what they say.

    `score` makes scores (`scoring.SCORE_SCHEMA`) of two sweeps. None for fewer than four draws, of
    which one half would have no standard error.
    """
    draws = unlearned["draw"].unique().sort()
    if len(draws) < 4:
        return None
    halves = [
        score(*(sweep.filter(pl.col("draw").is_in(half.implode())) for sweep in (base, unlearned)))
        for half in (draws.gather_every(2), draws.gather_every(2, offset=1))
    ]
    both = halves[0].join(halves[1], on="segment_id", suffix="_other")
    error = (pl.col("score_se").pow(2) + pl.col("score_se_other").pow(2)).sqrt()
    met = (pl.col("score") - pl.col("score_other")).abs() <= 1.96 * error
    return float(both.select(met.mean()).item())


def top_share(scores: pl.Series, fraction: float) -> float:
    """The part of all positive scores that the largest `fraction` of the segments hold."""
    positive = scores.clip(lower_bound=0).sort(descending=True)
    total = float(positive.sum())
    count = max(1, round(fraction * len(positive)))
    return float(positive.head(count).sum()) / total if total > 0 else 0.0


def self_rank(scores: pl.DataFrame, segment_id: str) -> int | None:
    """The rank of a segment among the scores of its own unlearning: 1 is perfect
    (arXiv:2506.18312, section 4.1). None for a segment that is not a training segment."""
    ranks = scores.filter(segment_id=segment_id)["rank"]
    return int(ranks[0]) if len(ranks) else None


def gini(scores: pl.Series) -> float:
    """Gini coefficient of the positive part of the scores of all segments: how unevenly influence
    is spread.

    G = 2·Σᵢ i·xᵢ / (n·Σᵢ xᵢ) − (n + 1)/n, with xᵢ = max(score, 0) in ascending order, i from 1
    (Gini, 1912). 0 when all segments have the same influence, (n − 1)/n when one has it all.
    Segments without influence count (they are part of n); when none has any, 0, as in `top_share`.
    """
    positive = scores.cast(pl.Float64).clip(lower_bound=0).sort().to_numpy()
    total, count = float(positive.sum()), len(positive)
    if total <= 0:
        return 0.0
    return float(2 * (np.arange(1, count + 1) @ positive) / (count * total) - (count + 1) / count)


def similarity_of_extremes(segments: pl.DataFrame, k: int) -> tuple[float, float]:
    """Mean similarity to the query of its `k` most and of its `k` least attributed tracks: with
    CLAP embeddings, CLAP_topk and CLAP_botk of arXiv:2506.18312.

    `segments` has a row per segment: `track_id`, `score`, and `similarity`, that of the segment's
    embedding to the query's. A track is represented by its segment with the best score (the first
    by `similarity`, if several have it). Of fewer than `k` tracks, all are taken.
    """
    tracks = (
        segments.sort(["score", "similarity"], descending=True)
        .group_by("track_id", maintain_order=True)
        .first()
        .sort(["score", "track_id"], descending=[True, False])
    )
    most, least = tracks["similarity"].head(k).mean(), tracks["similarity"].tail(k).mean()
    assert isinstance(most, float)
    assert isinstance(least, float)
    return most, least
