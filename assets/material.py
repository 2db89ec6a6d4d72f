"""What attribution methods may read of the study, from the inputs of the asset that runs them."""

from functools import cached_property
from pathlib import Path

import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from assets.base import TRAJECTORY, base_model, load_shards
from assets.dataset import latent_shards
from tda_dagster.attribution.features import GradientSpec, TrainingCheckpoint
from tda_dagster.attribution.fisher import FisherSum
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.retraining import put_weights
from tda_dagster.embedding import Embedding
from tda_dagster.errors import TdaError
from tda_dagster.materialization import Job, PerThread, Shard
from tda_dagster.store import Artifact


class StudyMaterial:
    """The `Material` of a job; each part is opened when a method first asks for it. Threads may
    share it: each of them has a model of its own."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._models = PerThread(lambda: base_model(job, job.settings.model.device))
        self._model_at = PerThread(lambda: base_model(job, job.settings.model.device))

    @property
    def model(self) -> MusicModel:
        return self._models()

    @cached_property
    def fisher(self) -> FisherSum:
        return FisherSum.load(self._job.inputs["base/fisher"].path("fisher.safetensors"))

    @cached_property
    def train(self) -> LatentSegments:
        return load_shards(self._job.inputs["dataset/latents"], "train")

    @property
    def checkpoints(self) -> tuple[TrainingCheckpoint, ...]:
        artifact = self._job.inputs["base/trajectory"]
        rows = pl.read_parquet(artifact.path(TRAJECTORY)).iter_rows()
        return tuple(TrainingCheckpoint(step, rate) for step, rate, _ in rows)

    def model_at(self, checkpoint: TrainingCheckpoint | None) -> MusicModel:
        if checkpoint is None:
            return self.model
        model = self._model_at()
        name = f"step-{checkpoint.step:06d}.safetensors"
        put_weights(model.pipeline, load_file(self._job.inputs["base/trajectory"].path(name)))
        return model

    def features(self, spec: GradientSpec, checkpoint: TrainingCheckpoint | None = None) -> Tensor:
        source = self._job.inputs["dataset/latents"]
        step = None if checkpoint is None else checkpoint.step
        weights = "base/checkpoint" if checkpoint is None else "base/trajectory"
        work = []
        for name in latent_shards(source, "train"):

            def produce(path: Path, name: str = name) -> None:
                segments = LatentSegments.load(source.path(name))
                features = spec.features(self.model_at(checkpoint), segments)
                save_file({"features": features}, path)

            work.append(
                Shard(
                    f"gradients|{name.removesuffix('.safetensors')}",
                    inputs={
                        "latents": source.files[name].digest,
                        weights: self._job.inputs[weights].digest,
                    },
                    config={"gradients": spec.model_dump(mode="json"), "step": step},
                    file="features.safetensors",
                    produce=produce,
                )
            )
        return torch.cat([load_file(part)["features"] for part in self._job.shards(work)])

    def embedding(self, name: str) -> Embedding:
        return read_embedding(self._job.inputs["dataset/embeddings"], name)

    def query_embedding(self, name: str) -> Embedding:
        return read_embedding(self._job.inputs["cohort/embeddings"], name)


def read_embedding(artifact: Artifact, name: str) -> Embedding:
    """An embedding by name; raises TdaError saying how to have it made."""
    file = f"{name}.safetensors"
    if not artifact.has(file):
        raise TdaError(
            f"there is no {name} embedding; name its model under embeddings.{name} in params.yaml"
        )
    return Embedding.load(artifact.path(file))
