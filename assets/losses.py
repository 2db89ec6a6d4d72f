"""Base: the loss cache, every segment's loss under the base model."""

from pathlib import Path
from typing import Any

import polars as pl

from assets.base import base_model
from assets.dataset import latent_shards
from assets.preview import histogram, table
from tda_dagster.attribution.sweep import sweep
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.materialization import Job, PerThread, Shard, Verdict, study_asset
from tda_dagster.store import Artifact


def noise_plan(settings: Any) -> NoisePlan:
    """The noise plan of a `noise` section."""
    return NoisePlan(**settings.model_dump())


def read_losses(artifact: Artifact) -> pl.DataFrame:
    """The losses of an artifact that holds one Parquet file per shard."""
    return pl.concat([pl.read_parquet(artifact.path(name)) for name in artifact.entries])


def _describe_losses(artifact: Artifact) -> dict[str, Any]:
    losses = read_losses(artifact)
    means = losses.group_by("segment_id").agg(pl.col("loss").mean())
    return {
        "segments": means.height,
        "mean loss": round(float(means["loss"].mean()), 5),  # type: ignore[arg-type]
        "by timestep": table(
            losses.group_by("timestep").agg(pl.col("loss").mean()).sort("timestep")
        ),
        "distribution": histogram(means["loss"], "mean loss of a segment under θ₀"),
    }


REPEATED = 4
REPEAT_TOLERANCE = 1e-5


def _losses_reproduce(job: Job, artifact: Artifact) -> Verdict:
    """Recomputing some of the cached losses gives the cached values (to rounding)."""
    source = job.inputs["dataset/latents"]
    first = latent_shards(source)[0]
    shard = LatentSegments.load(source.path(first))
    segments = shard.take(range(min(REPEATED, len(shard))))
    plan = noise_plan(job.settings.noise)
    again = sweep(base_model(job), segments, plan, batch_size=job.settings.sweep.batch_size)
    both = again.join(read_losses(artifact), on=["segment_id", "draw"], suffix="_cached")
    worst = float((both["loss"] / both["loss_cached"] - 1).abs().max())  # type: ignore[arg-type]
    detail = f"{both.height} losses recomputed, largest relative difference {worst:.1e}"
    return Verdict(both.height == again.height and worst < REPEAT_TOLERANCE, detail)


def finite_and_complete(job: Job, artifact: Artifact) -> Verdict:
    """Every segment of the dataset has a finite loss for every draw."""
    source = job.inputs["dataset/latents"]
    segments = sum(
        len(LatentSegments.load(source.path(name)).segment_ids) for name in latent_shards(source)
    )
    losses = read_losses(artifact)
    finite = bool(losses["loss"].is_finite().all())
    wanted = segments * job.settings.noise.draws
    detail = f"{losses.height} of {wanted} losses, {'all' if finite else 'not all'} finite"
    return Verdict(finite and losses.height == wanted, detail)


@study_asset(
    "base/losses",
    version="3",
    inputs=["dataset/latents", "base/checkpoint"],
    settings=["noise", "sweep.batch_size", "model.device"],
    by_shard=["dataset/latents"],
    checks={"finite_and_complete": finite_and_complete, "reproducible": _losses_reproduce},
    describe=_describe_losses,
    kinds=["pytorch", "parquet"],
)
def losses(job: Job, out: Path) -> None:
    """The loss cache: every segment's loss under θ₀ and the noise plan."""
    models = PerThread(lambda: base_model(job, job.settings.model.device))
    plan, batch_size = noise_plan(job.settings.noise), job.settings.sweep.batch_size
    source = job.inputs["dataset/latents"]
    shards = latent_shards(source)
    work = []
    for name in shards:

        def produce(path: Path, name: str = name) -> None:
            segments = LatentSegments.load(source.path(name))
            sweep(models(), segments, plan, batch_size=batch_size).write_parquet(path)

        work.append(
            Shard(
                name.removesuffix(".safetensors"),
                inputs={
                    "latents": source.files[name].digest,
                    "base/checkpoint": job.inputs["base/checkpoint"].digest,
                },
                config={
                    "noise": job.settings.noise.model_dump(mode="json"),
                    "batch_size": batch_size,
                },
                file="losses.parquet",
                produce=produce,
            )
        )
    for name, part in zip(shards, job.shards(work), strict=True):
        (out / name.replace(".safetensors", ".parquet")).write_bytes(part.read_bytes())
