"""Base: the model whose music is attributed, and its Fisher information."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.torch import save_file

from assets.dataset import latent_shards
from assets.preview import picture, table
from tda_dagster.attribution.fisher import FisherSum, add_fisher, estimate_fisher
from tda_dagster.diffusion.autoencoder import (
    AudioFormat,
    open_autoencoder,
    shipped_weights,
    shipped_weights_digest,
)
from tda_dagster.diffusion.latents import LatentSegments, concatenate
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.opening import (
    autoencoder_of,
    copy_pipeline,
    locate_pipeline,
    open_model,
    pipeline_stamp,
)
from tda_dagster.diffusion.opening.proof import denoising_error
from tda_dagster.diffusion.reference import (
    ReferenceTraining,
    Trainer,
    build_pipeline,
    save_pipeline,
)
from tda_dagster.errors import TdaError
from tda_dagster.materialization import Job, PerThread, Shard, Verdict, study_asset
from tda_dagster.partitions import Partition
from tda_dagster.report import figures
from tda_dagster.settings import TrainingSettings
from tda_dagster.store import Artifact, ArtifactStore, Ref
from tda_dagster.store.snapshots import open_snapshot
from tda_dagster.workspace import Workspace


def _weights_outside(settings: Any, workspace: Workspace) -> Mapping[str, Any]:
    """What the store does not hold: the package's own weights, or the user's pipeline."""
    uri = settings.model.pipeline
    if uri is None:
        return {"shipped": shipped_weights_digest()}
    return {"pipeline": pipeline_stamp(locate_pipeline(uri, workspace.root))}


def _pipeline_outside(settings: Any, workspace: Workspace) -> Mapping[str, Any]:
    uri = settings.model.pipeline
    return {} if uri is None else {"pipeline": pipeline_stamp(locate_pipeline(uri, workspace.root))}


def _trained_elsewhere(
    settings: Any, _workspace: Workspace, _: Partition | None
) -> Collection[str]:
    """One's own model is what it is, whatever the dataset."""
    if settings.model.pipeline is None:
        return ()
    return ("dataset/latents", "base/autoencoder", "base/trajectory")


def _describe_autoencoder(artifact: Artifact) -> dict[str, Any]:
    return json.loads(artifact.read_bytes("audio_format.json"))  # type: ignore[no-any-return]


@study_asset(
    "base/autoencoder",
    version="2",
    settings=["model.pipeline", "model.training.frames"],
    fingerprint=_weights_outside,
    describe=_describe_autoencoder,
    kinds=["pytorch", "safetensors"],
)
def autoencoder(job: Job, out: Path) -> None:
    """The autoencoder between audio and latents, and the audio format it works on.

    The reference study's comes with the package; one's own comes with the pipeline, all of which
    is proven first.
    """
    settings = job.settings.model
    (out / "vae").mkdir()
    if settings.pipeline is None:
        shipped_weights(out / "vae")
        frames = settings.training.frames
    else:
        pipeline = locate_pipeline(settings.pipeline, job.workspace.root)
        frames = autoencoder_of(pipeline, out / "vae")
    model = open_autoencoder(out / "vae")
    AudioFormat(
        sampling_rate=int(model.config.sampling_rate),
        audio_channels=int(model.config.audio_channels),
        hop_length=int(model.hop_length),
        frames=frames,
    ).save(out / "audio_format.json")


def load_shards(artifact: Artifact, split: str) -> LatentSegments:
    """All segments of a split in memory: for training, which needs random access."""
    shards = [LatentSegments.load(artifact.path(n)) for n in latent_shards(artifact, split)]
    if not shards:
        everything = LatentSegments.load(artifact.path(latent_shards(artifact)[0]))
        return everything.take([])
    return concatenate(shards)


def loss_curve(artifact: Artifact) -> list[tuple[int, float, float | None]]:
    """(step, training loss, held-out loss) from the artifact of `base/checkpoint`; empty for a
    model that was trained elsewhere."""
    if not artifact.has(_CURVE):
        return []
    return [tuple(point) for point in json.loads(artifact.read_bytes(_CURVE))]


def _describe_checkpoint(artifact: Artifact) -> dict[str, Any]:
    curve = loss_curve(artifact)
    if not curve:
        return {}
    steps, train, heldout = zip(*curve, strict=True)
    return {
        "train loss": train[-1],
        "held-out loss": heldout[-1],
        "loss curve": picture(figures.loss_curve(steps, train, heldout)),
    }


TRAJECTORY = "trajectory.parquet"
"""File that lists the stored checkpoints of the training (step, learning rate, file), in the
artifact of `base/trajectory`; without rows for a model that was trained elsewhere."""
_STATE, _CURVE = "state.safetensors", "curve.json"


def _describe_trajectory(artifact: Artifact) -> dict[str, Any]:
    return {"checkpoints": table(pl.read_parquet(artifact.path(TRAJECTORY)))}


@study_asset(
    "base/trajectory",
    version="2",
    inputs=["dataset/latents", "base/autoencoder"],
    settings=["model.pipeline", "model.training"],
    unmoved_by=_trained_elsewhere,
    describe=_describe_trajectory,
    kinds=["pytorch", "safetensors"],
)
def trajectory(job: Job, out: Path) -> None:
    """The training of the base model: its last state, and the weights at stored checkpoints on
    the way, under which influence can be followed through the training."""
    settings = job.settings.model
    rows: list[tuple[int, float, str]] = []
    if settings.pipeline is None:
        trainer = _trainer(job)
        for step, state in _states(job, trainer):
            name = f"step-{step:06d}.safetensors"
            save_file(trainer.weights_in(state), out / name)
            rows.append((step, trainer.learning_rate(step - 1), name))
        (out / _STATE).write_bytes(state.read_bytes())
    schema = {"step": pl.Int64, "learning_rate": pl.Float64, "file": pl.String}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(out / TRAJECTORY)


def _trainer(job: Job) -> Trainer:
    train = load_shards(job.inputs["dataset/latents"], "train")
    heldout = load_shards(job.inputs["dataset/latents"], "heldout")
    training = reference_training(job.settings.model.training)
    pipeline = build_pipeline(
        open_autoencoder(job.folder(job.inputs["base/autoencoder"]) / "vae"),
        train.captions,
        job.settings.model.training.frames,
        training,
    )
    return Trainer(pipeline, train, heldout, training)


def _states(job: Job, trainer: Trainer) -> Iterator[tuple[int, Path]]:
    """Train chunk by chunk; yields the step and the state at the end of each."""
    settings = job.settings.model.training
    state: Path | None = None
    for end in _chunk_ends(settings.steps, settings.checkpoint_every):

        def advance(path: Path, end: int = end, state: Path | None = state) -> None:
            if state is not None and trainer.step == 0:
                trainer.load(state)
            for _ in trainer.advance(end - trainer.step):
                job.progress(trainer.step, settings.steps)
            trainer.save(path)

        state = job.shard(
            Shard(
                f"step-{end:06d}",
                inputs={name: artifact.digest for name, artifact in job.inputs.items()},
                config={"training": settings.model_dump(mode="json"), "step": end},
                file=_STATE,
                produce=advance,
            )
        )
        job.progress(end, settings.steps)
        yield end, state


_DENOISED = 4


def _denoises(job: Job, artifact: Artifact) -> Verdict:
    """The model improves noised segments of the dataset by denoising them. Where it does not, it
    is untrained, or trained with another objective or on nothing like this music: a warning."""
    source = job.inputs["dataset/latents"]
    shard = LatentSegments.load(source.path(latent_shards(source)[0]))
    segments = shard.take(range(min(_DENOISED, len(shard))))
    model = open_model(job.folder(artifact) / "pipeline", job.workspace.settings.model.device)
    error = denoising_error(model, segments)
    detail = f"after denoising, {len(segments)} segments are {error:.2f} times as far from the "
    detail += "original as without a model"
    if error >= 1:
        detail += (
            "; the model seems to be untrained, or trained with another objective or on nothing "
            "like this music: its scores may mean nothing"
        )
    return Verdict(error < 1, detail, severe=False)


@study_asset(
    "base/checkpoint",
    version="2",
    inputs=["dataset/latents", "base/autoencoder", "base/trajectory"],
    settings=["model.pipeline", "model.training"],
    unmoved_by=_trained_elsewhere,
    fingerprint=_pipeline_outside,
    checks={"denoises": _denoises},
    describe=_describe_checkpoint,
    kinds=["pytorch", "diffusers"],
)
def checkpoint(job: Job, out: Path) -> None:
    """The base model θ₀ as a diffusers pipeline directory: trained here, or a copy of one's own."""
    settings = job.settings.model
    if settings.pipeline is not None:
        pipeline = locate_pipeline(settings.pipeline, job.workspace.root)
        copy_pipeline(pipeline, out / "pipeline")
        return
    trainer = _trainer(job)
    trainer.load(job.inputs["base/trajectory"].path(_STATE))
    save_pipeline(trainer.finish(), out / "pipeline")
    curve = [[p.step, p.train_loss, p.heldout_loss] for p in trainer.curve]
    (out / _CURVE).write_text(json.dumps(curve) + "\n", encoding="utf-8")


def reference_training(settings: TrainingSettings) -> ReferenceTraining:
    """The training run of a `model.training` section."""
    return ReferenceTraining(**settings.model_dump(exclude={"frames", "checkpoint_every"}))


def _chunk_ends(steps: int, every: int) -> list[int]:
    return [*range(every, steps, every), steps]


def base_model(job: Job, device: str = "cpu") -> MusicModel:
    """The base model from the artifact of `base/checkpoint`."""
    return open_model(job.folder(job.inputs["base/checkpoint"]) / "pipeline", device)


def _describe_fisher(artifact: Artifact) -> dict[str, Any]:
    fisher = FisherSum.load(artifact.path("fisher.safetensors"))
    rows = [
        {"parameter": n, "numbers": f.numel(), "mean": float(f.mean()), "max": float(f.max())}
        for n, f in fisher.diagonal().items()
    ]
    frame = pl.DataFrame(rows).sort("mean", descending=True)
    return {
        "segments": fisher.segments,
        "draws": fisher.draws,
        "parameters": int(frame["numbers"].sum()),
        "largest": table(frame.head(12)),
    }


def _kept_fisher(settings: Any, workspace: Workspace) -> Mapping[str, Any]:
    """The Fisher information of the snapshot that is to be kept."""
    name = settings.fisher.snapshot
    return {} if name is None else {"kept": _fisher_of(workspace.store, name).digest}


def _fisher_of(store: ArtifactStore, snapshot: str) -> Ref:
    ref = open_snapshot(store, snapshot).head("base/fisher")
    if ref is None:
        raise TdaError(
            f"fisher.snapshot: there is no Fisher information in the snapshot {snapshot!r}; name "
            "one that was taken after a run (`tda snapshot list`)"
        )
    return ref


@study_asset(
    "base/fisher",
    version="2",
    inputs=["dataset/latents", "base/checkpoint"],
    settings=["fisher", "model.device"],
    fingerprint=_kept_fisher,
    by_shard=["dataset/latents"],
    unmoved_by=lambda settings, *_: ["dataset/latents"] if settings.fisher.snapshot else [],
    describe=_describe_fisher,
    kinds=["pytorch", "safetensors"],
)
def fisher(job: Job, out: Path) -> None:
    """Diagonal Fisher information of the base model over the training segments, or over those of
    a snapshot, if its is kept."""
    settings = job.settings.fisher
    if settings.snapshot is not None:
        _keep_fisher(job, out)
        return
    models = PerThread(lambda: base_model(job, job.settings.model.device))
    plan = NoisePlan(draws=settings.draws, seed=settings.seed)
    source = job.inputs["dataset/latents"]
    shards = latent_shards(source, "train")
    work = []
    for name in shards:

        def produce(path: Path, name: str = name) -> None:
            estimate_fisher(
                models(),
                LatentSegments.load(source.path(name)),
                plan,
                layer_group=settings.layer_group,
                mask_padding=settings.mask_padding,
                batch_size=settings.batch_size,
            ).save(path)

        work.append(
            Shard(
                name.removesuffix(".safetensors"),
                inputs={
                    "latents": source.files[name].digest,
                    "base/checkpoint": job.inputs["base/checkpoint"].digest,
                },
                config={"fisher": settings.model_dump(mode="json", exclude={"snapshot"})},
                file="fisher.safetensors",
                produce=produce,
            )
        )
    add_fisher(FisherSum.load(part) for part in job.shards(work)).save(out / "fisher.safetensors")


def _keep_fisher(job: Job, out: Path) -> None:
    """Take over the Fisher information of a snapshot; raises TdaError if it is that of another
    model, or was measured otherwise than the settings say."""
    settings = job.settings.fisher
    kept = _fisher_of(job.store, settings.snapshot)
    measured = kept.recipe.config["fisher"]
    present = settings.model_dump(mode="json")
    differing = sorted(k for k in present if k != "snapshot" and measured.get(k) != present[k])
    if differing:
        raise TdaError(
            f"fisher.{differing[0]}: the Fisher information of the snapshot {settings.snapshot!r} "
            f"was measured with {measured.get(differing[0])!r}, not {present[differing[0]]!r}; "
            "take its value, or set fisher.snapshot to null to measure it anew"
        )
    if kept.recipe.inputs["base/checkpoint"] != job.inputs["base/checkpoint"].digest:
        raise TdaError(
            f"fisher.snapshot: the Fisher information of the snapshot {settings.snapshot!r} is "
            "that of another model; set it to null to measure that of the present one"
        )
    job.store.artifact(kept.digest).export(out)
