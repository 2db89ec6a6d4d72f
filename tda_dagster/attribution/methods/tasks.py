"""Computations of methods whose results are kept: other queries and methods find them again.

What belongs here: what a task is, and the tasks that several methods share. `Material.results` runs
tasks and keeps what they write. What it is kept under follows from the task itself: its settings,
the segments and the delta that it is given, and the parts of the material that it `reads`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl
import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from tda_dagster.attribution.bounded_ascent import (
    BoundedAscent,
    Forgetting,
    Weights,
    batch_loss,
    chosen,
)
from tda_dagster.attribution.methods.spec import Material
from tda_dagster.attribution.sweep import sweep
from tda_dagster.attribution.unlearning import unlearn
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan, keyed_generator
from tda_dagster.sections import Section
from tda_dagster.settings import NoiseSettings, UnlearningSettings


@dataclass(frozen=True)
class Result:
    """The file that a task has written, and the sha256 of its bytes."""

    path: Path
    digest: str


class Task(Section):
    """A computation with everything that determines its result but what it is given.

    Subclasses narrow `task` to their own name. `reads` says what of the material `run` reads, as
    for `UnlearningSpec`; it is given no more.
    """

    task: str
    reads: ClassVar[tuple[str, ...]] = ("model",)

    @abstractmethod
    def run(
        self,
        material: Material,
        segments: LatentSegments | None,
        delta: Weights | None,
        path: Path,
    ) -> None:
        """Compute, and write the result to the file `path`. The model is left at θ₀.

        Args:
            material: no more of it than `reads` says.
            segments: what the task is about, if anything.
            delta: change of the weights, name → float32, if the task is given one.
            path: of a file that is not there yet.
        """


@dataclass(frozen=True)
class Work:
    """A task and what it is given; `name` identifies it to people."""

    name: str
    task: Task
    segments: LatentSegments | None = None
    delta: Result | None = None

    def run(self, material: Material, path: Path) -> None:
        """Load the delta, and run the task."""
        delta = None if self.delta is None else load_file(self.delta.path)
        self.task.run(material, self.segments, delta, path)


class LossSweep(Task):
    """The losses of segments under θ₀ + delta (θ₀ without one), as `sweep` has them."""

    task: Literal["loss_sweep"] = "loss_sweep"
    noise: NoiseSettings
    batch_size: int = Field(64, gt=0, description="(segment, draw) rows in memory")

    def run(
        self,
        material: Material,
        segments: LatentSegments | None,
        delta: Weights | None,
        path: Path,
    ) -> None:
        assert segments is not None
        losses = sweep(material.model, segments, self.plan, delta, batch_size=self.batch_size)
        losses.write_parquet(path)

    @property
    def plan(self) -> NoisePlan:
        """The draws of the sweep."""
        return NoisePlan(**self.noise.model_dump())


def losses_of(result: Result, column: str) -> Tensor:
    """The result of a `LossSweep` as float64 [segments, draws]; `column` is of `LOSS_SCHEMA`."""
    losses = pl.read_parquet(result.path)
    draws = losses["draw"].n_unique()
    return torch.from_numpy(losses[column].to_numpy().copy()).reshape(-1, draws)


class GroupUnlearning(Task):
    """The unlearned checkpoint of a group: FIM-regularised ascent on the *sum* of its segments'
    losses (arXiv:2506.18312, section 3, with the query's loss replaced by that of the group).

    The gradient is the mean over the group's n segments, and the rate is η·n/N. To first order
    this is what training without the group changes: n segments pull n times as far as one.
    """

    task: Literal["group_unlearning"] = "group_unlearning"
    reads: ClassVar[tuple[str, ...]] = ("model", "fisher")
    unlearning: UnlearningSettings

    def run(
        self,
        material: Material,
        segments: LatentSegments | None,
        delta: Weights | None,
        path: Path,
    ) -> None:
        assert segments is not None
        options = dict(self.unlearning)
        options["learning_rate"] *= len(segments)
        unlearn(material.model, segments, material.fisher, **options).save(path)


class GroupAscent(Task):
    """The unlearned checkpoint of a group by bounded ascent on its loss against the retain loss of
    all other segments (MUCS, arXiv:2605.17938, with a group in the query's place).

    A step ascends `draws` segments of the group, each at another noise level. The criterion is the
    mean loss of at most `criterion_segments` of them, each at another draw of a fixed plan.
    """

    task: Literal["group_ascent"] = "group_ascent"
    reads: ClassVar[tuple[str, ...]] = ("model", "train")
    ascent: BoundedAscent
    criterion_segments: int = Field(gt=0)

    def run(
        self,
        material: Material,
        segments: LatentSegments | None,
        delta: Weights | None,
        path: Path,
    ) -> None:
        assert segments is not None
        model, options = material.model, self.ascent
        generator = keyed_generator(options.seed, "criterion", segments.keys[0])
        measured = chosen(segments, self.criterion_segments, generator)
        plan = NoisePlan(draws=len(measured), seed=options.seed)

        def at_step(weights: Weights, seed: int, draws: torch.Generator) -> Tensor:
            batch = chosen(segments, options.draws, draws)
            return batch_loss(model, weights, batch, NoisePlan(draws=len(batch), seed=seed))

        forgetting = Forgetting(
            segments,
            criterion=lambda weights: batch_loss(model, weights, measured, plan),
            at_step=at_step,
            null=self._null_loss(model, measured, plan),
            settings="method_settings.catalogue_mucs.ascent",
        )
        options.ascend(model, _others(material.train, segments), forgetting).save(path)

    @torch.no_grad()
    def _null_loss(self, model: MusicModel, measured: LatentSegments, plan: NoisePlan) -> float:
        """L_null: what the criterion is under freshly initialised weights."""
        fresh = model.freshly_initialised(self.ascent.seed)
        return float(batch_loss(model, fresh, measured, plan))


def _others(train: LatentSegments, group: LatentSegments) -> LatentSegments:
    """The training segments that are not in the group."""
    left_out: set[str] = set(group.segment_ids)
    rows: Sequence[int] = [i for i, name in enumerate(train.segment_ids) if name not in left_out]
    return train.take(rows)
