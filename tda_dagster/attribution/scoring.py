"""From losses before and after unlearning to a score per segment."""

import polars as pl

from tda_dagster.errors import TdaError

SCORE_SCHEMA = {
    "segment_id": pl.String,
    "score": pl.Float64,
    "score_se": pl.Float64,
    "rank": pl.Int64,
}


class ScoringError(TdaError):
    """Losses that cannot be compared."""


def score_difference(base: pl.DataFrame, unlearned: pl.DataFrame) -> pl.DataFrame:
    """τ(ẑ, zᵢ) = mean over draws of L(zᵢ; θ\\ẑ) − L(zᵢ; θ₀): larger = more influential.

    Both frames are sweeps (`sweep.LOSS_SCHEMA`) under the same plan over the same segments, so
    that each difference is paired (arXiv:2506.18312, eq. 3). `score_se` is the standard error of
    that mean over the draws (null for a single draw). Returns `SCORE_SCHEMA` ordered by rank;
    equal scores are ranked by segment id. Raises ScoringError when the sweeps do not match.
    """
    pair = ["segment_id", "draw"]
    for sweep in (base, unlearned):
        if sweep.select(pair).is_duplicated().any():
            raise ScoringError("a loss sweep holds a (segment, draw) pair twice; recompute it")
    # Sorted, so that the means below are summed in the same order every time.
    paired = base.join(unlearned, on=pair, how="inner", suffix="_unlearned").sort(pair)
    if not (paired.height == base.height == unlearned.height):
        raise ScoringError(
            f"the loss sweeps cover different (segment, draw) pairs: {base.height} before and "
            f"{unlearned.height} after unlearning, {paired.height} in common; recompute both "
            "under the same dataset and noise plan"
        )
    if paired.filter(pl.col("timestep") != pl.col("timestep_unlearned")).height:
        raise ScoringError("the loss sweeps were made under different noise plans; recompute both")
    difference = pl.col("loss_unlearned") - pl.col("loss")
    scores = (
        paired.group_by("segment_id")
        .agg(
            score=difference.mean(),
            score_se=difference.std() / pl.len().sqrt(),
        )
        .sort("segment_id")
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
