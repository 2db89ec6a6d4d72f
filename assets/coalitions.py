"""Counterfactual: what the model would have been without some catalogues, by retraining."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.torch import load_file

from assets.counterfactual import (
    ground_truth_plan,
    mean_losses,
    retrained_queries,
    same_losses,
    shipped_truth,
    stored_truth,
    truth_settings,
)
from assets.preview import table
from assets.retraining import Retraining
from tda_dagster.attribution.sweep import sweep
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.evaluation.coalitions import (
    Catalogues,
    catalogues_by,
    coalitions,
    tracks_of,
    unequal_catalogues,
)
from tda_dagster.evaluation.ground_truth import COALITION_TABLES
from tda_dagster.materialization import Job, Verdict, study_asset
from tda_dagster.store import Artifact

FILES = dict(zip(COALITION_TABLES, ("losses", "coalitions", "catalogues"), strict=True))
"""Names of the artifact's Parquet files, by those of the ground truth's tables."""


@dataclass(frozen=True)
class Formed:
    """The coalitions of one assignment of tracks to parties. `segments`: training segments of each
    track."""

    name: str
    catalogues: Catalogues
    segments: Mapping[str, int]
    coalitions: list[tuple[str, ...]]


def _formed(job: Job) -> list[Formed]:
    """The coalitions that the settings ask for, by assignment."""
    settings = truth_settings(job)
    index = job.inputs["dataset/index"]
    tracks = pl.read_parquet(index.path("tracks.parquet")).filter(split="train")
    segments = pl.read_parquet(index.path("segments.parquet")).filter(split="train")
    length = dict(segments.group_by("track_id").len().iter_rows())
    tracks = tracks.filter(pl.col("track_id").is_in(list(length)))
    found = []
    for name in settings.catalogues:
        catalogues = _catalogues(name, tracks, job.settings.counterfactual.seed)
        sizes = {party: sum(length[t] for t in own) for party, own in catalogues.items()}
        chosen = coalitions(sizes, settings.coalitions, settings.seed)
        found.append(Formed(name, catalogues, length, chosen))
    return found


def _catalogues(name: str, tracks: pl.DataFrame, seed: int) -> Catalogues:
    """An assignment of the tracks to parties: the same for all cohorts of the study."""
    if name == "unequal":
        return unequal_catalogues(dict(tracks.select("track_id", "collection").iter_rows()), seed)
    return catalogues_by(dict(tracks.select("track_id", "rightsholder").iter_rows()))


def _coalition_table(formed: list[Formed]) -> pl.DataFrame:
    """One row per coalition and party in it."""
    return pl.DataFrame(
        [
            (each.name, number, party)
            for each in formed
            for number, coalition in enumerate(each.coalitions)
            for party in coalition
        ],
        schema={"catalogues": pl.String, "coalition": pl.Int64, "party": pl.String},
        orient="row",
    )


def _catalogue_table(formed: list[Formed]) -> pl.DataFrame:
    """One row per assignment and training track."""
    return pl.DataFrame(
        [
            (each.name, party, track, each.segments[track])
            for each in formed
            for party, own in each.catalogues.items()
            for track in own
        ],
        schema={
            "catalogues": pl.String,
            "party": pl.String,
            "track_id": pl.String,
            "segments": pl.Int64,
        },
        orient="row",
    )


def _describe(artifact: Artifact) -> dict[str, Any]:
    losses = pl.read_parquet(artifact.path("losses.parquet"))
    catalogues = pl.read_parquet(artifact.path("catalogues.parquet"))
    return {
        "coalitions": losses.select("catalogues", "coalition").n_unique(),
        "trainings per coalition": losses["repeat"].n_unique(),
        "catalogues": table(
            catalogues.group_by("catalogues", "party", maintain_order=True).agg(
                tracks=pl.len(), segments=pl.col("segments").sum()
            )
        ),
    }


def _reproducible(job: Job, artifact: Artifact) -> Verdict:
    """Training on one coalition again gives the losses that are stored."""
    table = pl.read_parquet(artifact.path("losses.parquet"))
    each = _formed(job)[0]
    number = len(each.coalitions) - 1
    retraining = Retraining(job)
    (weights,) = retraining.weights([(tracks_of(each.coalitions[number], each.catalogues), 0)])
    again = _losses_under(job, retraining, weights, retrained_queries(job))
    own = table.filter(catalogues=each.name)
    return same_losses(again, own.filter(coalition=number, repeat=0), own, "coalitions")


@study_asset(
    "counterfactual/coalitions",
    version="1",
    inputs=["dataset/latents", "dataset/index", "base/autoencoder", "cohort/queries"],
    settings=["counterfactual", "model.pipeline", "model.training"],
    partitioned="cohort",
    on_request=True,
    fingerprint=shipped_truth,
    checks={"reproducible": _reproducible},
    describe=_describe,
    kinds=["pytorch", "parquet"],
)
def coalition_losses(job: Job, out: Path) -> None:
    """Every query's loss under models that were trained on coalitions of catalogues alone."""
    formed = _formed(job)
    tables = {"coalitions": _coalition_table(formed), "catalogues": _catalogue_table(formed)}
    tables["losses"] = _stored_losses(job, tables)
    if tables["losses"].is_empty():
        tables["losses"] = _trained_losses(job, formed)
    for name in FILES.values():
        tables[name].write_parquet(out / f"{name}.parquet")


_LOSSES = {
    "catalogues": pl.String,
    "coalition": pl.Int64,
    "repeat": pl.Int64,
    "query_id": pl.String,
    "loss": pl.Float64,
}
"""One row per training and query; the loss is the mean over the draws."""


def _stored_losses(job: Job, wanted: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The losses that come with the package, if they are of these coalitions; else no rows."""
    stored = stored_truth(job)
    if stored is None or not set(FILES) <= set(stored.tables):
        return pl.DataFrame(schema=_LOSSES)
    losses = stored.tables["coalition_losses"]
    same = losses["repeat"].n_unique() == truth_settings(job).coalition_repeats and all(
        stored.tables[name].equals(wanted[file]) for name, file in FILES.items() if file in wanted
    )
    return losses if same else pl.DataFrame(schema=_LOSSES)


def _trained_losses(job: Job, formed: list[Formed]) -> pl.DataFrame:
    """Train on every coalition, and measure every query's loss."""
    retraining, queries = Retraining(job), retrained_queries(job)
    # All coalitions once before any of them twice: a beginning of the list is a smaller truth.
    wanted = [
        (repeat, each, number)
        for repeat in range(truth_settings(job).coalition_repeats)
        for each in formed
        for number in range(len(each.coalitions))
    ]
    weights = retraining.weights(
        [
            (tracks_of(each.coalitions[number], each.catalogues), repeat)
            for repeat, each, number in wanted
        ]
    )
    frames = []
    for (repeat, each, number), path in zip(wanted, weights, strict=True):
        frames.append(
            _losses_under(job, retraining, path, queries).select(
                pl.lit(each.name).alias("catalogues"),
                pl.lit(number).cast(pl.Int64).alias("coalition"),
                pl.lit(repeat).cast(pl.Int64).alias("repeat"),
                "query_id",
                "loss",
            )
        )
    return pl.concat(frames)


def _losses_under(
    job: Job, retraining: Retraining, weights: Path, queries: LatentSegments
) -> pl.DataFrame:
    """Every query's mean loss under a training (`query_id`, `loss`)."""
    model = retraining.retrainer.model(load_file(weights))
    plan = ground_truth_plan(truth_settings(job))
    losses = sweep(model, queries, plan).rename({"segment_id": "query_id"})
    return mean_losses(losses).sort("query_id")
