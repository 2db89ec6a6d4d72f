"""Attribution: scores."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from torch import Tensor

from assets.cohort import load_queries
from assets.dataset import latent_shards
from assets.losses import read_losses
from assets.material import StudyMaterial
from assets.preview import histogram, table
from assets.unlearned import query_losses
from tda_dagster.attribution.methods import JointScoringSpec, ScoringSpec, UnlearningSpec
from tda_dagster.attribution.scoring import SCORE_SCHEMA, SCORERS, combined, rank_scores
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.materialization import Job, Shard, Verdict, study_asset
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
    version="4",
    inputs=[
        "base/losses",
        "unlearned/losses",
        "dataset/index",
        "dataset/latents",
        "dataset/embeddings",
        "cohort/queries",
        "cohort/embeddings",
        "base/checkpoint",
        "base/trajectory",
        "base/fisher",
    ],
    settings=["model.device"],
    partitioned="cohort|method",
    checks={"one_score_each": _one_score_each},
    describe=_describe,
    kinds=["polars", "parquet"],
)
def scores(job: Job, out: Path) -> None:
    """One score per query and training segment; larger is more influential. A method that unlearns
    scores by how much a segment's loss rose, the others as each of them says."""
    method = job.method
    if isinstance(method, UnlearningSpec):
        found = _from_losses(job, method)
    elif isinstance(method, JointScoringSpec):
        found = _jointly(job, method)
    else:
        assert isinstance(method, ScoringSpec)
        found = _directly(job, method)
    frames = [
        frame.select(
            pl.lit(query_id).alias("query_id"),
            pl.lit(method.method_id).alias("method_id"),
            *SCORE_SCHEMA,
        )
        for query_id, frame in found
    ]
    pl.concat(frames).write_parquet(out / "scores.parquet")


def _from_losses(job: Job, method: UnlearningSpec) -> Iterator[tuple[str, pl.DataFrame]]:
    segments = pl.read_parquet(job.inputs["dataset/index"].path("segments.parquet"))
    train = segments.filter(split="train").select("segment_id")
    base = read_losses(job.inputs["base/losses"]).join(train, on="segment_id", how="semi")
    scoring = method.scoring
    material, queries = StudyMaterial(job), load_queries(job.inputs["cohort/queries"])
    distinct, place = _distinct(queries)
    samples = method.other_samples(material, distinct)
    others = None if samples is None else _table(queries, material.train, samples[:, place])
    for query_id, losses in query_losses(job.inputs["unlearned/losses"]).items():
        found = SCORERS[scoring.score](
            base,
            losses.join(train, on="segment_id", how="semi"),
            mask_padding=scoring.mask_padding,
            timestep_min=scoring.timestep_min,
        )
        other = None if others is None else others.filter(query_id=query_id)
        yield query_id, found if other is None else combined(found, other)


def _directly(job: Job, method: ScoringSpec) -> Iterator[tuple[str, pl.DataFrame]]:
    material, queries = StudyMaterial(job), load_queries(job.inputs["cohort/queries"])
    distinct, place = _distinct(queries)
    source = job.inputs["dataset/latents"]
    work = []
    for name in latent_shards(source, "train"):

        def produce(path: Path, name: str = name) -> None:
            segments = LatentSegments.load(source.path(name))
            found = method.samples(material, distinct, segments)
            _table(queries, segments, found[:, place]).write_parquet(path)

        work.append(
            Shard(
                f"{job.cohort}|{name.removesuffix('.safetensors')}",
                inputs={"latents": source.files[name].digest, **_read_by_scoring(job)},
                config=method.model_dump(mode="json"),
                file="scores.parquet",
                produce=produce,
            )
        )
    return _ranked(pl.concat([pl.read_parquet(part) for part in job.shards(work)]))


def _jointly(job: Job, method: JointScoringSpec) -> Iterator[tuple[str, pl.DataFrame]]:
    material, queries = StudyMaterial(job), load_queries(job.inputs["cohort/queries"])
    distinct, place = _distinct(queries)
    samples = method.samples(material, distinct)[:, place]
    return _ranked(_table(queries, material.train, samples))


def _distinct(queries: LatentSegments) -> tuple[LatentSegments, list[int]]:
    """The queries without repetitions, and for each query its place among them. Equal pieces are
    scored once: in a batch, rounding would depend on the place."""
    contents = list(
        zip(
            queries.keys,
            queries.captions,
            queries.seconds_start,
            queries.seconds_total,
            queries.valid_frames.tolist(),
            strict=True,
        )
    )
    first = {content: row for row, content in reversed(list(enumerate(contents)))}
    rows = sorted(first.values())
    return queries.take(rows), [rows.index(first[content]) for content in contents]


def _table(queries: LatentSegments, segments: LatentSegments, samples: Tensor) -> pl.DataFrame:
    """Samples [samples, queries, segments] of scores as rows: their mean and its standard error,
    which is not known from one sample."""
    count = len(samples)
    errors = samples.std(dim=0) / count**0.5 if count > 1 else None
    return pl.DataFrame(
        {
            "query_id": [q for q in queries.segment_ids for _ in segments.segment_ids],
            "segment_id": list(segments.segment_ids) * len(queries),
            "score": samples.mean(dim=0).flatten().numpy(),
            "score_se": None if errors is None else errors.flatten().numpy(),
        },
        schema_overrides={"score_se": pl.Float64},
    )


def _ranked(scores: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    for query_id in scores["query_id"].unique(maintain_order=True):
        yield query_id, rank_scores(scores.filter(query_id=query_id).drop("query_id"))


def _read_by_scoring(job: Job) -> dict[str, str]:
    """The inputs that `StudyMaterial` opens, by digest."""
    names = (
        "dataset/latents",
        "dataset/embeddings",
        "cohort/queries",
        "cohort/embeddings",
        "base/checkpoint",
        "base/fisher",
    )
    return {name: job.inputs[name].digest for name in names}
