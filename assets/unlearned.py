"""Unlearned: what the model is without a query, and what else it forgot."""

from pathlib import Path
from typing import Any

import polars as pl

from assets.base import base_model
from assets.cohort import query_latents
from assets.dataset import latent_shards
from assets.preview import table
from tda_dagster.attribution.fisher import FisherSum
from tda_dagster.attribution.sweep import sweep
from tda_dagster.attribution.unlearning import Unlearned, unlearn
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.materialization import Job, Verdict, study_asset
from tda_dagster.store import Artifact


def _describe_checkpoints(artifact: Artifact) -> dict[str, Any]:
    rows = []
    for name in artifact.entries:
        result = Unlearned.load(artifact.path(name))
        rows.append(
            {
                "query": Path(name).stem,
                "‖Δ‖/‖θ₀‖": result.relative_norm,
                "query loss before": result.query_losses[0],
                "changed numbers": sum(d.numel() for d in result.delta.values()),
            }
        )
    return {"queries": len(rows), "deltas": table(pl.DataFrame(rows).head(20))}


def _deltas_move(job: Job, artifact: Artifact) -> Verdict:
    """Every query has an unlearned checkpoint whose delta is finite and not zero."""
    wanted = len(query_latents(job.inputs["cohort/queries"]))
    norms = [Unlearned.load(artifact.path(name)).relative_norm for name in artifact.entries]
    detail = f"{len(norms)} of {wanted} queries, ‖Δ‖/‖θ₀‖ {min(norms):.2e} to {max(norms):.2e}"
    return Verdict(len(norms) == wanted and all(0 < n < float("inf") for n in norms), detail)


@study_asset(
    "unlearned/checkpoints",
    version="1",
    inputs=["cohort/queries", "base/checkpoint", "base/fisher"],
    settings=["model.device"],
    partitioned="cohort|method",
    checks={"deltas_move": _deltas_move},
    describe=_describe_checkpoints,
    kinds=["pytorch", "safetensors"],
)
def checkpoints(job: Job, out: Path) -> None:
    """One unlearned checkpoint per query: the delta of the changed weights."""
    model = base_model(job, job.settings.model.device)
    fisher = FisherSum.load(job.inputs["base/fisher"].path("fisher.safetensors"))
    options = job.method.unlearning
    source = job.inputs["cohort/queries"]
    queries = query_latents(source)
    for number, (query_id, name) in enumerate(queries.items()):

        def produce(path: Path, name: str = name) -> None:
            query = LatentSegments.load(source.path(name))
            unlearn(model, query, fisher, **dict(options)).save(path)

        part = job.shard(
            query_id,
            inputs={
                "query": source.files[name].digest,
                "base/checkpoint": job.inputs["base/checkpoint"].digest,
                "base/fisher": job.inputs["base/fisher"].digest,
            },
            config={"unlearning": options.model_dump(mode="json")},
            file="delta.safetensors",
            produce=produce,
        )
        (out / f"{query_id}.safetensors").write_bytes(part.read_bytes())
        job.progress(number + 1, len(queries))


def _describe_losses(artifact: Artifact) -> dict[str, Any]:
    return {"files": len(artifact.entries)}


def _finite_and_complete(job: Job, artifact: Artifact) -> Verdict:
    """Every query has a finite loss for every segment and draw."""
    source = job.inputs["dataset/latents"]
    segments = sum(len(LatentSegments.load(source.path(n))) for n in latent_shards(source))
    wanted = segments * job.method.noise.draws
    sweeps = query_losses(artifact)
    whole = all(f.height == wanted and bool(f["loss"].is_finite().all()) for f in sweeps.values())
    queries = len(job.inputs["unlearned/checkpoints"].entries)
    detail = f"{len(sweeps)} of {queries} queries, {wanted} losses each"
    return Verdict(whole and len(sweeps) == queries, detail)


@study_asset(
    "unlearned/losses",
    version="1",
    inputs=["unlearned/checkpoints", "base/checkpoint", "dataset/latents"],
    settings=["model.device"],
    partitioned="cohort|method",
    checks={"finite_and_complete": _finite_and_complete},
    describe=_describe_losses,
    kinds=["pytorch", "parquet"],
)
def losses(job: Job, out: Path) -> None:
    """The loss sweep: every segment's loss under each unlearned checkpoint, paired with the loss
    cache by the noise plan."""
    model = base_model(job, job.settings.model.device)
    plan = NoisePlan(**job.method.noise.model_dump())
    options = job.method.sweep
    deltas, source = job.inputs["unlearned/checkpoints"], job.inputs["dataset/latents"]
    shards = latent_shards(source)
    total = len(shards) * len(deltas.entries)
    done = 0
    unlearned = {name: Unlearned.load(deltas.path(name)).delta for name in deltas.entries}
    for shard in shards:  # outside, so that latents are read once for all queries
        segments = LatentSegments.load(source.path(shard))
        for name, delta in unlearned.items():

            def produce(
                path: Path, segments: LatentSegments = segments, delta: Any = delta
            ) -> None:
                sweep(model, segments, plan, delta, **dict(options)).write_parquet(path)

            query_id = Path(name).stem
            part = job.shard(
                f"{query_id}|{shard.removesuffix('.safetensors')}",
                inputs={
                    "latents": source.files[shard].digest,
                    "delta": deltas.files[name].digest,
                    "base/checkpoint": job.inputs["base/checkpoint"].digest,
                },
                config={
                    "noise": job.method.noise.model_dump(mode="json"),
                    "sweep": options.model_dump(mode="json"),
                },
                file="losses.parquet",
                produce=produce,
            )
            (out / query_id).mkdir(exist_ok=True)
            target = out / query_id / shard.replace(".safetensors", ".parquet")
            target.write_bytes(part.read_bytes())
            done += 1
            job.progress(done, total)


def query_losses(artifact: Artifact) -> dict[str, pl.DataFrame]:
    """Query id → its sweep, from the artifact of `unlearned/losses`."""
    frames: dict[str, list[pl.DataFrame]] = {}
    for name in artifact.entries:
        query_id, _, _ = name.partition("/")
        frames.setdefault(query_id, []).append(pl.read_parquet(artifact.path(name)))
    return {query_id: pl.concat(parts) for query_id, parts in frames.items()}
