"""Figures about an attribution, each a row of `fct_evaluation`.

What belongs here: what is computed from losses, scores and deltas. Figures of audio are in
`reconstruction`.
"""

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
