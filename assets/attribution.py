"""Attribution: scores."""

from pathlib import Path
from typing import Any

import polars as pl

from assets.base import read_losses
from assets.preview import histogram, table
from assets.unlearned import query_losses
from tda_dagster.attribution.scoring import SCORE_SCHEMA, score_difference
from tda_dagster.materialization import Job, Verdict, study_asset
from tda_dagster.store import Artifact


def _describe(artifact: Artifact) -> dict[str, Any]:
    scores = pl.read_parquet(artifact.path("scores.parquet"))
    best = scores.filter(pl.col("rank") <= 3).sort("query_id", "rank")
    return {
        "queries": scores["query_id"].n_unique(),
        "scores": scores.height,
        "most influential": table(best.head(24)),
        "distribution": histogram(scores["score"], "score of a segment"),
    }


def _one_score_each(job: Job, artifact: Artifact) -> Verdict:
    """Every query has exactly one finite score for every training segment."""
    scores = pl.read_parquet(artifact.path("scores.parquet"))
    segments = pl.read_parquet(job.inputs["dataset/index"].path("segments.parquet"))
    train = segments.filter(split="train").height
    per_query = scores.group_by("query_id").agg(n=pl.col("segment_id").n_unique(), rows=pl.len())
    whole = bool(((per_query["n"] == train) & (per_query["rows"] == train)).all())
    finite = bool(scores["score"].is_finite().all())
    detail = f"{per_query.height} queries, {train} training segments, {scores.height} scores"
    return Verdict(whole and finite, detail)


@study_asset(
    "attribution/scores",
    version="1",
    inputs=["base/losses", "unlearned/losses", "dataset/index"],
    partitioned="cohort|method",
    checks={"one_score_each": _one_score_each},
    describe=_describe,
    kinds=["polars", "parquet"],
)
def scores(job: Job, out: Path) -> None:
    """One score per query and training segment: how much its loss rose when the query was
    unlearned. Larger is more influential."""
    segments = pl.read_parquet(job.inputs["dataset/index"].path("segments.parquet"))
    train = segments.filter(split="train").select("segment_id")
    base = read_losses(job.inputs["base/losses"]).join(train, on="segment_id", how="semi")
    frames = []
    for query_id, losses in query_losses(job.inputs["unlearned/losses"]).items():
        unlearned = losses.join(train, on="segment_id", how="semi")
        frames.append(
            score_difference(base, unlearned).select(
                pl.lit(query_id).alias("query_id"),
                pl.lit(job.method.method_id).alias("method_id"),
                *SCORE_SCHEMA,
            )
        )
    pl.concat(frames).write_parquet(out / "scores.parquet")
