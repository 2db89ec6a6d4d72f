"""Unlearned: what the model is without a query, and what else it forgot."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from assets.base import base_model
from assets.cohort import query_latents
from assets.dataset import latent_shards
from assets.material import READ_FROM, StudyMaterial
from assets.preview import table
from tda_dagster.attribution.methods import UnlearningSpec
from tda_dagster.attribution.sweep import LOSS_SCHEMA, sweep
from tda_dagster.attribution.unlearning import Unlearned
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.materialization import Job, PerThread, Shard, Verdict, study_asset
from tda_dagster.partitions import Partition
from tda_dagster.store import Artifact
from tda_dagster.workspace import Workspace

SUMMARY = "checkpoints.parquet"
"""File that lists the deltas, in the artifact of `unlearned/checkpoints`; the only one for a method
that does not unlearn."""
_SUMMARY_SCHEMA = {
    "query_id": pl.String,
    "relative_norm": pl.Float64,
    "steps": pl.Int64,
    "query_loss_before": pl.Float64,
    "stopped": pl.String,
}
QUERY_LOSSES = "queries.parquet"
"""File with the queries' own losses before and after, in the artifact of `unlearned/losses`; the
only one for a method that does not unlearn."""
_QUERY_LOSSES_SCHEMA = LOSS_SCHEMA | {
    f"{name}_unlearned": kind
    for name, kind in LOSS_SCHEMA.items()
    if name not in ("segment_id", "draw")
}


def _not_read(_settings: Any, _workspace: Workspace, partition: Partition | None) -> set[str]:
    """What the method's unlearning does not read; one that does not unlearn reads nothing."""
    assert partition is not None
    method = partition.method
    read = method.reads if isinstance(method, UnlearningSpec) else ()
    return set(READ_FROM.values()) - {READ_FROM[part] for part in read}


def unlearning_spec(job: Job) -> UnlearningSpec | None:
    """The partition's method, if it is one that unlearns."""
    return job.method if isinstance(job.method, UnlearningSpec) else None


def delta_files(artifact: Artifact) -> dict[str, str]:
    """Query id → name of its delta's file in the artifact of `unlearned/checkpoints`."""
    return {Path(name).stem: name for name in artifact.entries if name != SUMMARY}


def _describe_checkpoints(artifact: Artifact) -> dict[str, Any]:
    deltas = pl.read_parquet(artifact.path(SUMMARY))
    return {"queries": deltas.height, "deltas": table(deltas.head(20))}


def _deltas_move(job: Job, artifact: Artifact) -> Verdict:
    """Every query has an unlearned checkpoint whose delta is finite and not zero."""
    norms = pl.read_parquet(artifact.path(SUMMARY))["relative_norm"]
    if unlearning_spec(job) is None:
        return Verdict(norms.is_empty(), f"{job.method.method} does not unlearn")
    wanted = len(query_latents(job.inputs["cohort/queries"]))
    moved_by = norms.to_numpy()
    detail = (
        f"{len(norms)} of {wanted} queries, ‖Δ‖/‖θ₀‖ {min(moved_by):.2e} to {max(moved_by):.2e}"
    )
    moved = bool((norms.is_finite() & (norms > 0)).all())
    return Verdict(len(norms) == wanted == len(delta_files(artifact)) and moved, detail)


@study_asset(
    "unlearned/checkpoints",
    version="3",
    inputs=["cohort/queries", "base/checkpoint", "base/fisher", "dataset/latents"],
    settings=["model.device"],
    partitioned="cohort|method",
    unmoved_by=_not_read,
    checks={"deltas_move": _deltas_move},
    describe=_describe_checkpoints,
    kinds=["pytorch", "safetensors"],
)
def checkpoints(job: Job, out: Path) -> None:
    """One unlearned checkpoint per query: the delta of the changed weights. A method that does not
    unlearn has none."""
    method = unlearning_spec(job)
    rows = [] if method is None else _unlearned(job, method, out)
    pl.DataFrame(rows, schema=_SUMMARY_SCHEMA).write_parquet(out / SUMMARY)


def _unlearned(job: Job, method: UnlearningSpec, out: Path) -> list[dict[str, object]]:
    """Unlearn every query; returns the rows of the summary."""
    read = {name: job.inputs[name] for name in map(READ_FROM.__getitem__, method.reads)}
    material = StudyMaterial(replace(job, inputs=read))
    source = job.inputs["cohort/queries"]
    queries = query_latents(source)
    work = []
    for query_id, name in queries.items():

        def produce(path: Path, name: str = name) -> None:
            query = LatentSegments.load(source.path(name))
            method.unlearn(material, query).save(path)

        work.append(
            Shard(
                query_id,
                inputs={
                    "query": source.files[name].digest,
                    **{n: artifact.digest for n, artifact in read.items()},
                },
                config=method.unlearning_config,
                file="delta.safetensors",
                produce=produce,
            )
        )
    rows: list[dict[str, object]] = []
    for query_id, part in zip(queries, job.shards(work), strict=True):
        (out / f"{query_id}.safetensors").write_bytes(part.read_bytes())
        made = Unlearned.load(part)
        rows.append(
            {
                "query_id": query_id,
                "relative_norm": made.relative_norm,
                "steps": len(made.query_losses),
                "query_loss_before": made.query_losses[0],
                "stopped": made.stopped,
            }
        )
    return rows


def _describe_losses(artifact: Artifact) -> dict[str, Any]:
    return {"files": len(artifact.entries)}


def _finite_and_complete(job: Job, artifact: Artifact) -> Verdict:
    """Every query has a finite loss for every segment and draw."""
    method = unlearning_spec(job)
    if method is None:
        return Verdict(artifact.entries == [QUERY_LOSSES], f"{job.method.method} does not unlearn")
    source = job.inputs["dataset/latents"]
    segments = sum(len(LatentSegments.load(source.path(n))) for n in latent_shards(source))
    wanted = segments * len(method.plan.indices)
    sweeps = query_losses(artifact)
    whole = all(f.height == wanted and bool(f["loss"].is_finite().all()) for f in sweeps.values())
    queries = len(delta_files(job.inputs["unlearned/checkpoints"]))
    detail = f"{len(sweeps)} of {queries} queries, {wanted} losses each"
    return Verdict(whole and len(sweeps) == queries, detail)


@study_asset(
    "unlearned/losses",
    version="3",
    inputs=["unlearned/checkpoints", "cohort/queries", "base/checkpoint", "dataset/latents"],
    settings=["model.device"],
    partitioned="cohort|method",
    by_shard=["dataset/latents"],
    checks={"finite_and_complete": _finite_and_complete},
    describe=_describe_losses,
    kinds=["pytorch", "parquet"],
)
def losses(job: Job, out: Path) -> None:
    """The loss sweep: every segment's loss under each unlearned checkpoint, paired with the loss
    cache by the noise plan, and the queries' own losses before and after."""
    method = unlearning_spec(job)
    rise = pl.DataFrame(schema=_QUERY_LOSSES_SCHEMA) if method is None else _swept(job, method, out)
    rise.write_parquet(out / QUERY_LOSSES)


def _swept(job: Job, method: UnlearningSpec, out: Path) -> pl.DataFrame:
    """Sweep the segments under every checkpoint; returns the queries' own losses."""
    models = PerThread(lambda: base_model(job, job.settings.model.device))
    deltas, source = job.inputs["unlearned/checkpoints"], job.inputs["dataset/latents"]
    shards = latent_shards(source)
    files = delta_files(deltas)
    unlearned = {query_id: Unlearned.load(deltas.path(n)).delta for query_id, n in files.items()}
    work, targets = [], []
    for shard in shards:  # outside, so that latents are read once for all queries
        segments = LatentSegments.load(source.path(shard))
        for query_id, delta in unlearned.items():

            def produce(
                path: Path, segments: LatentSegments = segments, delta: Any = delta
            ) -> None:
                _sweep(method, models(), segments, delta).write_parquet(path)

            work.append(
                Shard(
                    f"{query_id}|{shard.removesuffix('.safetensors')}",
                    inputs={
                        "latents": source.files[shard].digest,
                        "delta": deltas.files[files[query_id]].digest,
                        "base/checkpoint": job.inputs["base/checkpoint"].digest,
                    },
                    config={
                        "noise": method.noise.model_dump(mode="json"),
                        "sweep": method.sweep.model_dump(mode="json"),
                    },
                    file="losses.parquet",
                    produce=produce,
                )
            )
            targets.append(out / query_id / shard.replace(".safetensors", ".parquet"))
    for target, part in zip(targets, job.shards(work), strict=True):
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(part.read_bytes())
    queries = query_latents(job.inputs["cohort/queries"])
    frames = []
    for query_id, name in queries.items():
        query = LatentSegments.load(job.inputs["cohort/queries"].path(name))
        before = _sweep(method, models(), query, {})
        after = _sweep(method, models(), query, unlearned[query_id])
        frames.append(before.join(after, on=["segment_id", "draw"], suffix="_unlearned"))
    return pl.concat(frames).select(list(_QUERY_LOSSES_SCHEMA))


def _sweep(
    method: UnlearningSpec, model: MusicModel, segments: LatentSegments, delta: Any
) -> pl.DataFrame:
    return sweep(model, segments, method.plan, delta, batch_size=method.sweep.batch_size)


def query_losses(artifact: Artifact) -> dict[str, pl.DataFrame]:
    """Query id → its sweep, from the artifact of `unlearned/losses`; empty for a method that does
    not unlearn."""
    frames: dict[str, list[pl.DataFrame]] = {}
    for name in artifact.entries:
        query_id, _, shard = name.partition("/")
        if shard:
            frames.setdefault(query_id, []).append(pl.read_parquet(artifact.path(name)))
    return {query_id: pl.concat(parts) for query_id, parts in frames.items()}
