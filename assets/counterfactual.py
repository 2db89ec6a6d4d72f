"""Counterfactual: what the model would have been without some of its tracks, by retraining."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.torch import load_file
from torch import Tensor

from assets.base import base_model
from assets.cohort import load_queries, mono
from assets.material import read_embedding
from assets.pieces import query_audio
from assets.preview import table
from assets.retraining import Retraining
from tda_dagster.attribution.similarity import cosine, standardised
from tda_dagster.attribution.sweep import sweep
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.embedding import embed, open_embedders
from tda_dagster.errors import TdaError
from tda_dagster.evaluation.counterfactual import removed_tracks
from tda_dagster.evaluation.ground_truth import (
    REMOVAL_TABLES,
    GroundTruth,
    Removals,
    about,
    removals,
    shipped,
    shipped_digest,
)
from tda_dagster.materialization import Job, Verdict, study_asset
from tda_dagster.settings import CounterfactualSettings
from tda_dagster.store import Artifact
from tda_dagster.workspace import Workspace


def shipped_truth(settings: Any, workspace: Workspace) -> Mapping[str, Any]:
    """The package's ground truth, which the store does not hold."""
    return {"ground truth": shipped_digest()} if settings.counterfactual.stored else {}


def stored_truth(job: Job) -> GroundTruth | None:
    """The package's ground truth, where it is wanted and fits this study."""
    settings = truth_settings(job)
    found = shipped(job.cohort) if settings.stored else None
    if found is None:
        return None
    tracks = pl.read_parquet(job.inputs["dataset/index"].path("tracks.parquet"))
    queries = job.inputs["cohort/queries"]
    declared = pl.read_parquet(queries.path("queries.parquet"))
    ours = about(job.settings.model.training, settings, tracks, declared)
    return found if found.fits(ours, retrained_queries(job)) else None


def truth_settings(job: Job) -> CounterfactualSettings:
    """The cohort's settings."""
    settings: CounterfactualSettings = job.settings.counterfactual.of(job.cohort)
    return settings


def retrained_queries(job: Job) -> LatentSegments:
    """The cohort's queries with draws keyed by their ids, not by their content: the losses that
    the package ships were measured under those, and must stay comparable with new ones."""
    return load_queries(job.inputs["cohort/queries"]).keyed_by_id()


def ground_truth_plan(settings: Any) -> NoisePlan:
    """The draws under which a query's loss is compared between counterfactual models: none that a
    method has seen."""
    return NoisePlan(draws=settings.draws, seed=settings.seed)


def _describe_losses(artifact: Artifact) -> dict[str, Any]:
    losses = pl.read_parquet(artifact.path("losses.parquet"))
    means = losses.group_by("query_id", "subset").agg(pl.col("loss").mean())
    return {
        "subsets": losses["subset"].n_unique(),
        "trainings per subset": losses["repeat"].n_unique(),
        "queries": table(
            means.group_by("query_id")
            .agg(mean=pl.col("loss").mean(), deviation=pl.col("loss").std())
            .sort("query_id")
        ),
    }


def _complete(job: Job, artifact: Artifact) -> Verdict:
    """Every query has a finite loss under every training and draw."""
    losses = pl.read_parquet(artifact.path("losses.parquet"))
    settings = truth_settings(job)
    queries = len(retrained_queries(job))
    wanted = settings.subsets * settings.repeats * queries * settings.draws
    finite = bool(losses["loss"].is_finite().all())
    detail = f"{losses.height} of {wanted} losses, {'all' if finite else 'not all'} finite"
    return Verdict(finite and losses.height == wanted, detail)


REPRODUCED = 0.25
"""How far the loss under a training that is done again may be from the stored one, in standard
deviations over subsets: on the same kind of processor it is the same number, on another one 1200
steps of other rounding lie between them."""


def _reproducible(job: Job, artifact: Artifact) -> Verdict:
    """Training on one subset again gives the losses that are stored."""
    table = pl.read_parquet(artifact.path("losses.parquet"))
    retraining = Retraining(job)
    (weights,) = retraining.weights([(retraining.subsets()[0], 0)])
    model = retraining.retrainer.model(load_file(weights))
    plan = ground_truth_plan(truth_settings(job))
    again = mean_losses(
        sweep(model, retrained_queries(job), plan).rename({"segment_id": "query_id"})
    )
    means = table.group_by("query_id", "subset", "repeat").agg(pl.col("loss").mean())
    return same_losses(again, mean_losses(table.filter(subset=0, repeat=0)), means, "subsets")


def same_losses(
    again: pl.DataFrame, stored: pl.DataFrame, trainings: pl.DataFrame, of: str
) -> Verdict:
    """Whether the queries' losses under a training that was done again are the stored ones, as far
    as processors differ (`REPRODUCED`). `trainings` has each query's loss under every training."""
    spread = trainings.group_by("query_id").agg(spread=pl.col("loss").std())
    compared = again.join(stored, on="query_id", suffix="_stored").join(spread, on="query_id")
    apart = (compared["loss"] - compared["loss_stored"]).abs() / compared["spread"]
    worst = float(apart.max())  # type: ignore[arg-type]
    detail = f"{compared.height} queries, at most {worst:.1e} deviations over {of} apart"
    return Verdict(compared.height == stored.height and worst < REPRODUCED, detail)


def mean_losses(losses: pl.DataFrame) -> pl.DataFrame:
    """Mean over the draws, by query (`query_id`, `loss`)."""
    return losses.group_by("query_id").agg(pl.col("loss").mean())


@study_asset(
    "counterfactual/losses",
    version="1",
    inputs=["dataset/latents", "dataset/index", "base/autoencoder", "cohort/queries"],
    settings=["counterfactual", "model.pipeline", "model.training"],
    partitioned="cohort",
    on_request=True,
    fingerprint=shipped_truth,
    checks={"complete": _complete, "reproducible": _reproducible},
    describe=_describe_losses,
    kinds=["pytorch", "parquet"],
)
def losses(job: Job, out: Path) -> None:
    """Every query's loss under models that were trained on random parts of the tracks."""
    settings = truth_settings(job)
    stored = stored_truth(job)
    if stored is not None and "losses" in stored.tables:
        for name in ("losses", "subsets"):
            stored.tables[name].write_parquet(out / f"{name}.parquet")
        return
    retraining = Retraining(job)
    subsets = retraining.subsets()
    # All subsets once before any of them twice: a beginning of the list is a smaller ground truth.
    wanted = [
        (number, repeat) for repeat in range(settings.repeats) for number in range(len(subsets))
    ]
    weights = retraining.weights([(subsets[number], repeat) for number, repeat in wanted])
    queries = retrained_queries(job)
    plan = ground_truth_plan(settings)
    frames = []
    for (number, repeat), path in zip(wanted, weights, strict=True):
        model = retraining.retrainer.model(load_file(path))
        frames.append(
            sweep(model, queries, plan).select(
                pl.lit(number).alias("subset"),
                pl.lit(repeat).alias("repeat"),
                pl.col("segment_id").alias("query_id"),
                "draw",
                "timestep",
                "loss",
            )
        )
    pl.concat(frames).write_parquet(out / "losses.parquet")
    _membership(subsets).write_parquet(out / "subsets.parquet")


def _membership(subsets: Sequence[Sequence[str]]) -> pl.DataFrame:
    """One row per subset and track it keeps."""
    return pl.DataFrame(
        {
            "subset": [number for number, subset in enumerate(subsets) for _ in subset],
            "track_id": [track for subset in subsets for track in subset],
        }
    )


def _removed(job: Job, queries: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The tracks that are left out for each query, most attributed first."""
    return removed_tracks(
        pl.read_parquet(job.inputs["attribution/scores"].path("scores.parquet")),
        pl.read_parquet(job.inputs["dataset/index"].path("segments.parquet")),
        queries,
        max(truth_settings(job).removed_tracks),
        job.settings.shares.threshold_z,
    )


def _describe_removal(artifact: Artifact) -> dict[str, Any]:
    losses = pl.read_parquet(artifact.path("losses.parquet"))
    sizes = pl.read_parquet(artifact.path("removed.parquet")).select("removed", "tracks").unique()
    rise = (
        losses.join(sizes, on="removed")
        .group_by("query_id", "tracks")
        .agg(rise=(pl.col("loss") - pl.col("loss_base")).mean())
        .sort("query_id", "tracks")
    )
    sounds = pl.read_parquet(artifact.path("sounds.parquet"))
    return {
        "mean rise of the query's loss": round(float(rise["rise"].mean()), 5),  # type: ignore[arg-type]
        "queries": table(rise),
        "regenerated": table(sounds.group_by("embedding").agg(pl.col("similarity").mean())),
    }


@study_asset(
    "counterfactual/removal",
    version="1",
    inputs=[
        "dataset/latents",
        "dataset/index",
        "dataset/embeddings",
        "base/autoencoder",
        "base/checkpoint",
        "cohort/queries",
        "cohort/embeddings",
        "attribution/scores",
    ],
    settings=[
        "counterfactual",
        "shares.threshold_z",
        "model.pipeline",
        "model.training",
        "embeddings",
    ],
    partitioned="cohort|method",
    on_request=True,
    fingerprint=shipped_truth,
    describe=_describe_removal,
    kinds=["pytorch", "parquet"],
)
def removal(job: Job, out: Path) -> None:
    """What becomes of a query when the tracks that a method holds most responsible for it are left
    out of training: its loss, and how alike the piece of the same prompt and seed sounds then.

    Every query is retrained for on its own, once for each number of tracks, and every method
    removes the same numbers.
    """
    settings = truth_settings(job)
    chosen = retrained_queries(job)
    chosen = chosen.take(range(min(settings.removal_queries, len(chosen))))
    stored = stored_truth(job)
    known = set() if stored is None else stored.known_removals()
    removed = removals(_removed(job, chosen.segment_ids), settings.removed_tracks)
    if not settings.trains_removal(job.method.method):
        removed = {key: tracks for key, tracks in removed.items() if key in known}
    if not removed:
        raise TdaError(
            f"counterfactual.removal_methods: {job.method.method} is not among them, and nothing "
            "of what it found is stored; add it there to train without what it found"
        )
    tables = _stored_removals(stored, removed)
    missing = {key: tracks for key, tracks in removed.items() if key not in known}
    if missing:
        trained = _trained_without(job, chosen, missing)
        tables = [pl.concat(parts) for parts in zip(tables, trained, strict=True)]
    losses, sounds = tables
    losses.sort("query_id", "removed", "draw").write_parquet(out / "losses.parquet")
    sounds.sort("query_id", "removed", "embedding").write_parquet(out / "sounds.parquet")
    pl.DataFrame(
        [
            {
                "query_id": query,
                "removed": digest,
                "tracks": len(tracks),
                "place": place,
                "track_id": track,
            }
            for (query, digest), tracks in removed.items()
            for place, track in enumerate(tracks, start=1)
        ]
    ).write_parquet(out / "removed.parquet")


def _stored_removals(stored: GroundTruth | None, removed: Removals) -> list[pl.DataFrame]:
    """What is stored of queries without some tracks, as `REMOVAL_TABLES`; no rows if nothing is."""
    if stored is None or not set(REMOVAL_TABLES) <= set(stored.tables):
        return [pl.DataFrame(schema=schema) for schema in REMOVAL_TABLES.values()]
    sets = pl.DataFrame(list(removed), schema=["query_id", "removed"], orient="row")
    return [
        stored.tables[name].join(sets, on=["query_id", "removed"], how="semi").select(list(schema))
        for name, schema in REMOVAL_TABLES.items()
    ]


def _trained_without(
    job: Job, queries: LatentSegments, removed: Removals
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Train without each set of removed tracks; the losses of its query, and the likeness of what
    is generated then (`REMOVAL_TABLES`)."""
    retraining = Retraining(job)
    weights = retraining.weights(
        [(sorted(set(retraining.tracks) - set(tracks)), 0) for tracks in removed.values()]
    )
    plan = ground_truth_plan(truth_settings(job))
    declared = pl.read_parquet(job.inputs["cohort/queries"].path("queries.parquet"))
    base = base_model(job)
    losses, pieces = [], []
    for (name, digest), path in zip(removed, weights, strict=True):
        query = queries.take([queries.segment_ids.index(name)])
        model = retraining.retrainer.model(load_file(path))
        losses.append(sweep(model, query, plan).with_columns(removed=pl.lit(digest)))
        (row,) = declared.filter(query_id=name).iter_rows(named=True)
        if row["seed"] is not None:
            pieces.append(((name, digest), mono(_generated_again(model, query, row).T)))
    asked = {name for name, _ in removed}
    rows = [place for place, name in enumerate(queries.segment_ids) if name in asked]
    before = sweep(base, queries.take(rows), plan).select("segment_id", "draw", loss_base="loss")
    after = pl.concat(losses).join(before, on=["segment_id", "draw"])
    after = after.rename({"segment_id": "query_id"}).select(list(REMOVAL_TABLES["removal_losses"]))
    return after, _likeness(job, pieces, base.sampling_rate)


def _generated_again(model: MusicModel, query: LatentSegments, row: dict[str, Any]) -> np.ndarray:
    """Audio [channels, samples] of a generated query's prompt and seed under another model."""
    latents = model.generate(
        row["prompt"],
        negative_prompt=row["negative_prompt"],
        seed=row["seed"],
        seconds=row["seconds"],
        steps=row["inference_steps"],
        guidance_scale=row["guidance_scale"],
    )
    return query_audio(model, replace(query, latents=latents.unsqueeze(0)))


_COMPARED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "timbre": standardised,
    # Note by note: what is generated from the same noise keeps its time and key where nothing has
    # changed.
    "melody": lambda vectors, _train: vectors.flatten(1),
}
"""Embeddings by which a piece is compared with what it was, and what of them is compared."""


def _likeness(
    job: Job, pieces: Sequence[tuple[tuple[str, str], np.ndarray]], rate: int
) -> pl.DataFrame:
    """How alike pieces, by query and set of removed tracks, sound to their queries: cosines, by
    embedding."""
    schema = REMOVAL_TABLES["removal_sounds"]
    if not pieces:
        return pl.DataFrame(schema=schema)
    embedders = open_embedders(job.settings.embeddings.clap, job.workspace.root)
    sounds = [(f"{query} without {digest}", audio) for (query, digest), audio in pieces]
    rows = []
    for name, prepared in _COMPARED.items():
        train = read_embedding(job.inputs["dataset/embeddings"], name).vectors
        before = read_embedding(job.inputs["cohort/embeddings"], name).of(
            [query for (query, _), _ in pieces]
        )
        after = embed(embedders[name], sounds, rate).vectors
        alike = cosine(prepared(after, train), prepared(before, train)).diagonal().tolist()
        rows += [(*key, name, value) for (key, _), value in zip(pieces, alike, strict=True)]
    return pl.DataFrame(rows, schema=schema, orient="row")
