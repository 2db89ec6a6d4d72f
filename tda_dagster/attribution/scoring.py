"""From losses before and after unlearning to a score per segment."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tda_dagster.errors import TdaError
from tda_dagster.numerics import group_means

Array = NDArray[np.float64]

SCORE_SCHEMA = {
    "segment_id": pl.String,
    "score": pl.Float64,
    "score_se": pl.Float64,
    "rank": pl.Int64,
}


class ScoringError(TdaError):
    """Losses that cannot be compared."""


def score_difference(
    base: pl.DataFrame,
    unlearned: pl.DataFrame,
    *,
    mask_padding: bool = False,
    timestep_min: float = 0.0,
) -> pl.DataFrame:
    """τ(ẑ, zᵢ) = mean over draws of L(zᵢ; θ\\ẑ) − L(zᵢ; θ₀): larger = more influential
    (arXiv:2506.18312, eq. 3).

    The frames are sweeps (`sweep.LOSS_SCHEMA`) under the same plan over the same segments, so that
    each difference is paired; `base` may have draws that `unlearned` was not swept under.
    `mask_padding` compares losses over valid frames only (the paper's M_L); draws at timesteps
    below `timestep_min` are left out. `score_se` is the standard error of the mean over draws
    (null for a single draw). Returns `SCORE_SCHEMA` ordered by rank; equal scores are ranked by
    segment id. Raises ScoringError when the sweeps do not match.
    """
    before, after = _columns(mask_padding)
    return _scored(_paired(base, unlearned, timestep_min), after - before)


def score_skew(
    base: pl.DataFrame,
    unlearned: pl.DataFrame,
    *,
    mask_padding: bool = False,
    timestep_min: float = 0.0,
) -> pl.DataFrame:
    """mean over draws of (L' − L) / (L' + L), with L before and L' after unlearning, in [−1, 1]:
    the skew of arXiv:2605.17938, which weighs all noise levels alike.

    Everything else is as for `score_difference`.
    """
    before, after = _columns(mask_padding)
    return _scored(
        _paired(base, unlearned, timestep_min),
        (after - before) / (after + before + _NO_LOSS),
    )


SCORERS = {"difference": score_difference, "skew": score_skew}
"""By the name that `scoring.score` gives them."""

_NO_LOSS = 1e-12
"""Keeps the skew of two losses of zero at zero."""


def _columns(mask_padding: bool) -> tuple[pl.Expr, pl.Expr]:
    """The loss before and after, over all frames or the valid ones."""
    name = "loss_valid" if mask_padding else "loss"
    return pl.col(name), pl.col(f"{name}_unlearned")


def _paired(base: pl.DataFrame, unlearned: pl.DataFrame, timestep_min: float) -> pl.DataFrame:
    """Both sweeps side by side, one row per segment and draw, ordered."""
    pair = ["segment_id", "draw"]
    for sweep in (base, unlearned):
        if sweep.select(pair).is_duplicated().any():
            raise ScoringError("a loss sweep holds a (segment, draw) pair twice; recompute it")
    base = base.join(unlearned.select("draw").unique(), on="draw", how="semi")
    # Sorted, so that means are summed in the same order every time.
    paired = base.join(unlearned, on=pair, how="inner", suffix="_unlearned").sort(pair)
    if not (paired.height == base.height == unlearned.height):
        raise ScoringError(
            f"the loss sweeps cover different (segment, draw) pairs: {base.height} before and "
            f"{unlearned.height} after unlearning, {paired.height} in common; recompute both "
            "under the same dataset and noise plan"
        )
    if paired.filter(pl.col("timestep") != pl.col("timestep_unlearned")).height:
        raise ScoringError("the loss sweeps were made under different noise plans; recompute both")
    kept = paired.filter(pl.col("timestep") >= timestep_min)
    if kept.is_empty():
        raise ScoringError(
            f"scoring.timestep_min: {timestep_min} leaves no draw; the noisiest one is at "
            f"{paired['timestep'].max()!r}: lower it, or sweep more draws (sweep.draws)"
        )
    return kept


def _scored(paired: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    """The mean of `value` over the draws of each segment, ranked."""
    values = paired.select(value=value)["value"].to_numpy()
    starts, means, deviations, draws = group_means([paired["segment_id"].to_numpy()], values)
    scores = pl.DataFrame(
        {
            "segment_id": paired["segment_id"].gather(starts),
            "score": means,
            "score_se": pl.Series(deviations / np.sqrt(draws)).fill_nan(None),
        }
    )
    bad = scores.filter(~pl.col("score").is_finite())
    if bad.height:
        raise ScoringError(
            f"segment {bad['segment_id'][0]} and {bad.height - 1} more have scores that are not "
            "finite; lower unlearning.learning_rate or raise unlearning.damping"
        )
    return rank_scores(scores)


def rank_scores(scores: pl.DataFrame) -> pl.DataFrame:
    """Order by score, largest first, ties by segment id, with `rank` counting from 1."""
    return (
        scores.sort(["score", "segment_id"], descending=[True, False])
        .with_row_index("rank", offset=1)
        .with_columns(pl.col("rank").cast(pl.Int64))
        .select(list(SCORE_SCHEMA))
    )


def robust_z(scores: Array) -> Array:
    """How far scores [..., segments] stand out from the bulk of those of one query: the distance
    from the median in units of `robust_spread`, 0 where that is 0."""
    apart = scores - np.median(scores, axis=-1, keepdims=True)
    spread = robust_spread(scores)
    standing: Array = np.divide(apart, spread, out=np.zeros_like(apart), where=spread > 0)
    return standing


def robust_spread(scores: Array) -> Array:
    """1.4826 times the median absolute deviation, [..., 1]: the standard deviation, were the scores
    normal, whatever a few of them are."""
    apart = np.abs(scores - np.median(scores, axis=-1, keepdims=True))
    spread: Array = 1.4826 * np.median(apart, axis=-1, keepdims=True)
    return spread


def evidence(scores: Array, threshold_z: float) -> Array:
    """What shares are made of: by how much the robust z of scores [..., segments] exceeds the
    threshold, at least 0 (data dictionary, "Shares")."""
    return np.maximum(robust_z(scores) - threshold_z, 0.0)


def combined(scores: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """The mean of two methods' scores of a query's segments, each as its robust z, for their scales
    have nothing in common. `scores` and `other` have `segment_id`, `score` and `score_se` of the
    same segments; the standard error takes the two for independent, and is null where one is.
    """
    both = scores.join(other, on="segment_id", suffix="_other").sort("segment_id")
    values = [both[name].to_numpy() for name in ("score", "score_other")]
    spreads = [float(robust_spread(value)[0]) for value in values]
    errors = [
        both[name] / spread if spread > 0 else pl.Series([None] * both.height, dtype=pl.Float64)
        for name, spread in zip(("score_se", "score_se_other"), spreads, strict=True)
    ]
    return rank_scores(
        both.select(
            "segment_id",
            score=pl.Series((robust_z(values[0]) + robust_z(values[1])) / 2),
            score_se=(errors[0] ** 2 + errors[1] ** 2).sqrt() / 2,
        )
    )
