"""Warehouse: everything as tables anyone can query."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import polars as pl

from assets.base import loss_curve
from assets.cohort import attributed
from assets.losses import read_losses
from assets.preview import table
from assets.unlearned import query_losses
from tda_dagster.attribution.methods import method_specs
from tda_dagster.attribution.support import FLOOR, support_digest, support_of
from tda_dagster.attribution.sweep import LOSS_SCHEMA
from tda_dagster.errors import TdaError
from tda_dagster.evaluation.metrics import EVALUATION_SCHEMA, row
from tda_dagster.history.content import lineage_tables
from tda_dagster.masking import masked
from tda_dagster.materialization import STUDY_ASSETS, Job, study_asset
from tda_dagster.partitions import Partition, experiment_partitions, stored_spec
from tda_dagster.settings import ShareSettings
from tda_dagster.store import Artifact, ArtifactStore, canonical_json
from tda_dagster.workspace import Workspace
from warehouse.build import build, content_digest
from warehouse.tables import BY_NAME, empty, validate, with_windows

CONTENT = (
    "dim_track",
    "dim_segment",
    "dim_query",
    "dim_method",
    "dim_experiment",
    "fct_loss",
    "fct_score",
    "fct_evaluation",
    "fct_resample",
    "share_rule",
    "method_support",
)


def _experiments(settings: Any, workspace: Workspace) -> Mapping[str, Any]:
    return {
        "experiments": {
            name: [[p.cohort, p.method.method_id] for p in experiment_partitions(workspace, name)]
            for name in workspace.settings.experiments
        }
    }


def _outside(settings: Any, workspace: Workspace) -> Mapping[str, Any]:
    """What no input holds: the experiments, and what was measured of methods on the bench."""
    return {**_experiments(settings, workspace), "support": support_digest()}


def _describe(artifact: Artifact) -> dict[str, Any]:
    described = json.loads(artifact.read_bytes("content.json"))
    rows = pl.DataFrame(
        {"table": list(described["rows"]), "rows": list(described["rows"].values())}
    )
    return {"content digest": described["content_digest"], "tables": table(rows)}


def _lay_out(job: Job, artifact: Artifact) -> None:
    """Build the database file: the artifact's tables, and what the store knows of all runs."""
    tables = {name: pl.read_parquet(artifact.path(f"{name}.parquet")) for name in CONTENT}
    lineage = lineage_tables(job.workspace.store)
    states = {"dim_asset_state": _asset_states(job.workspace)}
    build(job.workspace.database, tables | lineage | states)


@study_asset(
    "warehouse/duckdb",
    version="5",
    inputs=["dataset/index", "base/checkpoint", "base/losses", "evaluation/reconstruction"],
    gathers=[
        "cohort/queries",
        "unlearned/losses",
        "attribution/scores",
        "evaluation/attribution",
        "evaluation/generations",
        "evaluation/datamodel",
        "evaluation/removal",
        "evaluation/payout",
    ],
    settings=["shares"],
    fingerprint=_outside,
    finish=_lay_out,
    describe=_describe,
    kinds=["duckdb", "parquet"],
)
def duckdb(job: Job, out: Path) -> None:
    """The attribution warehouse: every cohort that was scored against the present dataset, as
    Parquet tables in the store and as `warehouse/attribution.duckdb`."""
    index = job.inputs["dataset/index"]
    segments = pl.read_parquet(index.path("segments.parquet"))
    partitions = _current_partitions(job)
    tables = {
        "dim_track": _shown_tracks(index),
        "dim_segment": segments,
        "dim_query": _queries(job, {p.partition("|")[0] for p in partitions}),
        "dim_method": method_rows(job.store, {p.partition("|")[2] for p in partitions}),
        "dim_experiment": _experiment_rows(job, partitions),
        "fct_loss": _losses(job, partitions),
        "fct_score": _gather(job, "attribution/scores", partitions, "scores.parquet"),
        "fct_evaluation": _evaluations(job, partitions),
        "fct_resample": _resamples(job, partitions),
        "share_rule": share_rule(job.settings.shares),
    }
    tables["method_support"] = support_rows(tables["dim_method"], job.settings.shares)
    tables = {n: validate(n, frame if frame.width else empty(n)) for n, frame in tables.items()}
    for name, frame in tables.items():
        frame.write_parquet(out / f"{name}.parquet")
    rows = {name: frame.height for name, frame in tables.items()}
    content = {"content_digest": content_digest(tables), "rows": rows}
    (out / "content.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _shown_tracks(index: Artifact) -> pl.DataFrame:
    """The tracks of the index; what is secret in a URL of an audio file stays there."""
    tracks = pl.read_parquet(index.path("tracks.parquet"))
    return tracks.with_columns(pl.col("audio").map_elements(masked, return_dtype=pl.String))


def _current_partitions(job: Job) -> set[str]:
    """The cohort|method partitions whose scores belong to the present dataset and model.

    The others stay in the store, but their segments are not the warehouse's.
    """
    current = set()
    for name in job.inputs:
        asset, _, partition = name.rstrip("]").partition("[")
        if asset != "attribution/scores":
            continue
        ref = job.store.head(asset, partition)
        assert ref is not None
        inputs = ref.recipe.inputs
        fits = all(inputs[n] == job.inputs[n].digest for n in ("dataset/index", "base/losses"))
        queries = job.store.head("cohort/queries", partition.partition("|")[0])
        scored = set(pl.read_parquet(job.inputs[name].path("scores.parquet"))["query_id"].unique())
        if fits and queries is not None:
            known = attributed(job.store.artifact(queries.digest))["query_id"]
            if scored == set(known):
                current.add(partition)
    return current


def _gather(
    job: Job, asset: str, partitions: set[str], file: str = "metrics.parquet"
) -> pl.DataFrame:
    """A table of an asset over partitions; what an earlier version made may be without it."""
    found = [job.inputs.get(f"{asset}[{p}]") for p in sorted(partitions)]
    frames = [pl.read_parquet(part.path(file)) for part in found if part and part.has(file)]
    return pl.concat(frames) if frames else pl.DataFrame()


def _queries(job: Job, cohorts: set[str]) -> pl.DataFrame:
    found = [job.inputs[f"cohort/queries[{cohort}]"] for cohort in sorted(cohorts)]
    frames = [with_windows(pl.read_parquet(part.path("queries.parquet"))) for part in found]
    return pl.concat(frames) if frames else pl.DataFrame()


def method_rows(store: ArtifactStore, method_ids: set[str]) -> pl.DataFrame:
    """Rows of `dim_method`."""
    specs = {method_id: stored_spec(store, method_id) for method_id in sorted(method_ids)}
    return pl.DataFrame(
        [
            {
                # The id that scores are kept under: what an older version of the code registered
                # may have another one under this.
                "method_id": method_id,
                "method": spec.method,
                "label": spec.label,
                "family": spec.family,
                "config": canonical_json(spec.model_dump(mode="json")).decode(),
            }
            for method_id, spec in specs.items()
        ]
    )


def _experiment_rows(job: Job, partitions: set[str]) -> pl.DataFrame:
    """Which scored partitions belong to which experiment of the settings."""
    declared = _experiments(job.settings, job.workspace)["experiments"]
    rows = [
        {"experiment": name, "cohort": cohort, "method_id": method_id}
        for name, members in declared.items()
        for cohort, method_id in members
        if f"{cohort}|{method_id}" in partitions
    ]
    return pl.DataFrame(rows, schema=BY_NAME["dim_experiment"].schema)


def _losses(job: Job, partitions: set[str]) -> pl.DataFrame:
    columns = ["query_id", "method_id", *LOSS_SCHEMA]
    base = read_losses(job.inputs["base/losses"]).with_columns(
        query_id=pl.lit(None, pl.String), method_id=pl.lit(None, pl.String)
    )
    frames = [base.select(columns)]
    for partition in sorted(partitions):
        for query_id, losses in query_losses(job.inputs[f"unlearned/losses[{partition}]"]).items():
            frames.append(
                losses.with_columns(
                    query_id=pl.lit(query_id), method_id=pl.lit(partition.partition("|")[2])
                ).select(columns)
            )
    return pl.concat(frames)


def _evaluations(job: Job, partitions: set[str]) -> pl.DataFrame:
    frames = [
        _gather(job, "evaluation/attribution", partitions),
        _gather(job, "evaluation/generations", partitions),
        *(
            _gather(job, asset, _of_these_scores(job, asset, partitions))
            for asset in ("evaluation/datamodel", "evaluation/removal", "evaluation/payout")
        ),
        pl.read_parquet(job.inputs["evaluation/reconstruction"].path("metrics.parquet")),
        _training_curve(job.inputs["base/checkpoint"]),
    ]
    return pl.concat([f for f in frames if f.width])


def _resamples(job: Job, partitions: set[str]) -> pl.DataFrame:
    found = [
        _gather(job, asset, _of_these_scores(job, asset, partitions), "resamples.parquet")
        for asset in ("evaluation/datamodel", "evaluation/payout")
    ]
    frames = [frame for frame in found if frame.width]
    return pl.concat(frames) if frames else pl.DataFrame()


def _of_these_scores(job: Job, asset: str, partitions: set[str]) -> set[str]:
    """The partitions of an asset made on request that are about the live scores: nothing brings
    the others up to date until they are asked for again."""
    current = set()
    for partition in partitions:
        ref = job.store.head(asset, partition)
        scores = job.inputs[f"attribution/scores[{partition}]"].digest
        if ref is not None and ref.recipe.inputs["attribution/scores"] == scores:
            current.add(partition)
    return current


def _training_curve(checkpoint: Artifact) -> pl.DataFrame:
    """The loss curve of the reference model; no rows for a model trained elsewhere."""
    rows = []
    for step, train, heldout in loss_curve(checkpoint):
        rows.append(row("training", "base", "train_loss", train, detail=f"step {step:06d}"))
        if heldout is not None:
            rows.append(row("training", "base", "heldout_loss", heldout, detail=f"step {step:06d}"))
    return pl.DataFrame(rows, schema=EVALUATION_SCHEMA)


def share_rule(settings: ShareSettings) -> pl.DataFrame:
    """The row of `share_rule`."""
    normal, threshold = NormalDist(), settings.threshold_z
    excess = normal.pdf(threshold) - threshold * (1 - normal.cdf(threshold))
    rule = {
        "threshold_z": [threshold],
        "null_excess": [excess],
        "min_reliability": [settings.min_reliability],
        "min_prominence": [settings.min_prominence],
        "interval_floor": [FLOOR],
    }
    return pl.DataFrame(rule)


def support_rows(methods: pl.DataFrame, settings: ShareSettings) -> pl.DataFrame:
    """The rows of `method_support` for those of `dim_method`."""
    rows = [
        (method_id, found.support, found.spread)
        for method_id, method in methods.select("method_id", "method").iter_rows()
        if (found := support_of(method, settings.support))
    ]
    return pl.DataFrame(rows, schema=BY_NAME["method_support"].schema, orient="row")


def _asset_states(workspace: Workspace) -> pl.DataFrame:
    """Code version and settings digest that each live artifact would be made with now."""
    rows = []
    for ref in workspace.store.heads():
        declared = STUDY_ASSETS.get(ref.recipe.asset)
        if declared is None:
            continue
        cohort, _, method_id = ref.recipe.partition.partition("|")
        try:
            config = declared.config(
                workspace.settings, _partition(workspace, cohort, method_id), workspace
            )
        except TdaError:  # a cohort whose file, or audio, is gone: it cannot be made any more
            continue
        rows.append(
            {
                "asset": ref.recipe.asset,
                "partition": ref.recipe.partition,
                "code_version": declared.version,
                "config_digest": hashlib.sha256(canonical_json(config)).hexdigest(),
            }
        )
    return pl.DataFrame(rows, schema=BY_NAME["dim_asset_state"].schema)


def _partition(workspace: Workspace, cohort: str, method_id: str) -> Partition | None:
    if not cohort:
        return None
    if method_id:
        return Partition(cohort, stored_spec(workspace.store, method_id))
    return Partition(cohort, method_specs(workspace.settings)[0])
