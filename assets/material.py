"""What attribution methods may read of the study, from the inputs of the asset that runs them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from tda_dagster.attribution.groups import Groups, groups_by
from tda_dagster.attribution.methods.tasks import Result, Work
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.retraining import put_weights
from tda_dagster.embedding import Embedding
from tda_dagster.errors import TdaError
from tda_dagster.materialization import Job, PerThread, Shard
from tda_dagster.store import Artifact

READ_FROM = {"model": "base/checkpoint", "fisher": "base/fisher", "train": "dataset/latents"}
"""The asset behind each part of the material that a method may be restricted to."""


class StudyMaterial:
    """The `Material` of a job; each part is opened when a method first asks for it. Threads may
    share it: each of them has a model of its own."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._models = PerThread(lambda: base_model(job, job.settings.model.device))
        self._model_at = PerThread(lambda: base_model(job, job.settings.model.device))
        self._inputs_of: dict[str, Mapping[str, str]] = {}

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

    def groups(self, column: str) -> Groups:
        index = self._job.inputs["dataset/index"]
        tracks, segments = (
            pl.read_parquet(index.path(f"{name}.parquet")) for name in ("tracks", "segments")
        )
        return groups_by(column, tracks, segments, self.train.segment_ids)

    def shards(self) -> list[LatentSegments]:
        return list(self._shards.values())

    @cached_property
    def _shards(self) -> dict[str, LatentSegments]:
        source = self._job.inputs["dataset/latents"]
        return {n: LatentSegments.load(source.path(n)) for n in latent_shards(source, "train")}

    @cached_property
    def _shard_of(self) -> dict[str, str]:
        """Training segment → name of its shard's file."""
        return {
            segment: name for name, shard in self._shards.items() for segment in shard.segment_ids
        }

    def results(self, work: Sequence[Work]) -> list[Result]:
        """The recipe of a result follows from its work: the settings of the task, the contents of
        the segments and the digest of the delta are its config. Its inputs are what that comes
        from: the assets that the task reads, the shards that the segments are in (or the cohort),
        and the inputs of the delta. A result is therefore kept as long as all of these are live,
        and one of training segments alone is shared by all cohorts."""
        restricted = {reads: self._restricted(reads) for reads in {w.task.reads for w in work}}
        shards = [self._shard(part, restricted[part.task.reads]) for part in work]
        found = []
        for shard, artifact in zip(shards, self._job.folders(shards), strict=True):
            (name,) = artifact.entries
            found.append(Result(artifact.path(name), artifact.files[name].digest))
            self._inputs_of[found[-1].digest] = shard.inputs
        return found

    def _restricted(self, reads: tuple[str, ...]) -> "StudyMaterial":
        """The material with nothing in it but what a task reads."""
        inputs = {name: self._job.inputs[name] for name in map(READ_FROM.__getitem__, reads)}
        return StudyMaterial(replace(self._job, inputs=inputs))

    def _shard(self, work: Work, material: "StudyMaterial") -> Shard:
        config: dict[str, object] = {"task": work.task.model_dump(mode="json")}
        inputs = {name: artifact.digest for name, artifact in material._job.inputs.items()}
        if work.segments is not None:
            config["segments"] = list(work.segments.segment_ids)
            config["latents"] = work.segments.digest
            inputs |= self._sources(work.segments)
        if work.delta is not None:
            config["delta"] = work.delta.digest
            inputs |= self._inputs_of[work.delta.digest]
        return Shard(
            work.name,
            inputs=inputs,
            config=config,
            file="",
            produce=lambda folder: work.run(material, folder / "result"),
        )

    def _sources(self, segments: LatentSegments) -> dict[str, str]:
        """The digest of each shard that training segments are in, or of the cohort of queries."""
        shards = {self._shard_of.get(segment) for segment in segments.segment_ids}
        if None in shards:
            return {"cohort/queries": self._job.inputs["cohort/queries"].digest}
        files = self._job.inputs["dataset/latents"].files
        return {f"latents {name}": files[name].digest for name in shards if name}

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
