"""The trainings that counterfactual assets need, as shards of their work."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from safetensors.torch import save_file

from assets.base import load_shards, reference_training
from tda_dagster.diffusion.retraining import Retrainer
from tda_dagster.errors import TdaError
from tda_dagster.evaluation.counterfactual import random_subsets
from tda_dagster.materialization import Job, PerThread, Shard
from tda_dagster.store import canonical_json, digest_of


class Retraining:
    """The trainings of a job on parts of the dataset: kept in the store one by one, side by side
    on threads, and never done twice."""

    def __init__(self, job: Job) -> None:
        if job.settings.model.pipeline is not None:
            raise TdaError(
                "model.pipeline: ground truth needs the training of the model, and how this one "
                "was trained is unknown; set model.pipeline to null for the reference model"
            )
        self._job = job
        settings = job.settings.counterfactual.of(job.cohort)
        self._train = load_shards(job.inputs["dataset/latents"], "train")
        segments = pl.read_parquet(job.inputs["dataset/index"].path("segments.parquet"))
        of_segment = dict(segments.select("segment_id", "track_id").iter_rows())
        self._tracks = [of_segment[segment] for segment in self._train.segment_ids]
        autoencoder = job.folder(job.inputs["base/autoencoder"]) / "vae"
        self._retrainers = PerThread(
            lambda: Retrainer(
                autoencoder,
                self._train,
                reference_training(job.settings.model.training),
                max(settings.repeats, settings.coalition_repeats),
            )
        )

    @property
    def tracks(self) -> tuple[str, ...]:
        """The training tracks, sorted."""
        return tuple(sorted(set(self._tracks)))

    def subsets(self) -> list[tuple[str, ...]]:
        """The random subsets of the tracks."""
        settings = self._job.settings.counterfactual.of(self._job.cohort)
        return random_subsets(self.tracks, settings.subsets, settings.fraction, settings.seed)

    def weights(self, kept: Sequence[tuple[Sequence[str], int]]) -> list[Path]:
        """For every (tracks, repeat) the file of the weights of a model trained on them."""
        return self._job.shards([self._shard(tracks, repeat) for tracks, repeat in kept])

    @property
    def retrainer(self) -> Retrainer:
        """This thread's own, to open weights with."""
        return self._retrainers()

    def _shard(self, tracks: Sequence[str], repeat: int) -> Shard:
        chosen = set(tracks)
        rows = [row for row, track in enumerate(self._tracks) if track in chosen]
        training = self._job.settings.model.training.model_dump(
            mode="json", exclude={"checkpoint_every"}
        )
        digest = digest_of(canonical_json(sorted(chosen)))

        def train(path: Path) -> None:
            save_file(self._retrainers().train(rows, repeat), path)

        return Shard(
            f"{digest[:16]}-{repeat}",
            inputs={
                name: self._job.inputs[name].digest
                for name in ("dataset/latents", "dataset/index", "base/autoencoder")
            },
            config={"training": training, "tracks": digest, "repeat": repeat},
            file="weights.safetensors",
            produce=train,
        )
