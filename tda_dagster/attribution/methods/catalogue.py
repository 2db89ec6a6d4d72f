"""What methods have in common that unlearn groups of training segments instead of queries."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.groups import GroupError, Groups, handed_down, members, merged
from tda_dagster.attribution.methods.spec import Family, JointScoringSpec, Material
from tda_dagster.attribution.methods.tasks import LossSweep, Result, Task, Work, losses_of
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.settings import NoiseSettings, ScoringSettings

_WHOLE = 2
"""Fewest groups: what is left out of everything is not compared with anything."""


class CatalogueSpec(JointScoringSpec):
    """Unlearn each group of training segments, e.g. the catalogue of a rightsholder, and measure
    how far every query's loss rises (GUDA, arXiv:2601.22651).

    The effect of a group g on a query q is the mean over paired draws of L(q; θ\\g) − L(q; θ₀), or
    of its skew (`scoring.score`). The scores of the group's segments sum to it: each of n segments
    is given effect / n. A score thus says nothing of a single segment.

    Cost in forward passes, with G groups, N training segments, Q queries and K draws: the
    unlearned checkpoints, once for all cohorts, and Q·(G + 1)·K for the losses of the queries. Both
    are linear in G and no loss of a training segment is measured, whatever N. With more than
    `max_groups` groups, they are merged into `max_groups` coarse ones of about equally many
    segments, and only the `refined` coarse groups with the largest effects on a query are divided
    into their groups: the losses then cost about Q·(max_groups + refined·G/max_groups)·K. In a
    coarse group that is not refined, all segments have the same score.
    """

    family: ClassVar[Family] = "unlearning"
    groups: ClassVar[bool] = True

    group: str = Field("rightsholder", description="column of dim_track that says the group")
    max_groups: int | None = Field(
        None, ge=2, description="more groups are merged, and the best refined (null: never)"
    )
    refined: int = Field(4, gt=0, description="coarse groups of a query that are refined")
    noise: NoiseSettings
    scoring: ScoringSettings

    @abstractmethod
    def unlearning_task(self) -> Task:
        """The task that unlearns the segments it is given."""

    @abstractmethod
    def unlearning_forwards(self, sizes: Sequence[int]) -> int:
        """About how many forward passes it costs to unlearn groups of so many segments."""

    def forwards(
        self, queries: int, segments: int, group_sizes: Callable[[str], Sequence[int]]
    ) -> int:
        sizes = group_sizes(self.group)
        models = len(sizes)
        if self.max_groups is not None and models > self.max_groups:
            models = self.max_groups + self.refined * math.ceil(models / self.max_groups)
        return self.unlearning_forwards(sizes) + queries * (models + 1) * self.noise.draws

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        return self.samples(material, queries).mean(dim=0)

    def samples(self, material: Material, queries: LatentSegments) -> Tensor:
        """One per draw. Raises GroupError for an unknown column, and for a single group."""
        groups, count = material.groups(self.group), len(material.train)
        if len(groups) < _WHOLE:
            raise GroupError(
                f"group: all training segments have the same {self.group}, so there is nothing to "
                "compare it with; choose another column"
            )
        if self.max_groups is None or len(groups) <= self.max_groups:
            return handed_down(self._effects(material, queries, groups), groups, count)
        return self._refined(material, queries, groups, merged(groups, self.max_groups))

    def _refined(
        self,
        material: Material,
        queries: LatentSegments,
        groups: Groups,
        coarse: dict[str, tuple[str, ...]],
    ) -> Tensor:
        """Samples where coarse groups are refined that have the largest effects on a query."""
        count = len(material.train)
        places = {name: members(groups, names) for name, names in coarse.items()}
        effects = self._effects(material, queries, places)
        samples = handed_down(effects, places, count)
        order = effects.mean(dim=0).argsort(dim=1, descending=True, stable=True)
        chosen = order[:, : self.refined]
        for number, (name, names) in enumerate(coarse.items()):
            rows = (chosen == number).any(dim=1).nonzero().flatten().tolist()
            if rows and len(names) > 1:
                fine = {group: groups[group] for group in names}
                found = self._effects(material, queries.take(rows), fine)
                inside = torch.tensor(places[name])
                scores = handed_down(found, fine, count)[..., inside]
                samples[:, torch.tensor(rows).unsqueeze(1), inside] = scores
        return samples

    def _effects(self, material: Material, queries: LatentSegments, groups: Groups) -> Tensor:
        """The effects of groups, float64 [draws, queries, groups], in the order of `groups`."""
        task = self.unlearning_task()
        checkpoints = material.results(
            [
                Work(f"group|{name}", task, material.train.take(places))
                for name, places in groups.items()
            ]
        )
        before, *after = self._losses(material, queries, [None, *checkpoints], ["θ₀", *groups])
        rises = torch.stack([self._rise(before, losses) for losses in after], dim=-1)
        return rises.transpose(0, 1)

    def _losses(
        self,
        material: Material,
        queries: LatentSegments,
        deltas: list[Result | None],
        names: list[str],
    ) -> list[Tensor]:
        """The queries' losses under each delta, float64 [queries, draws]; draws at small timesteps
        that the scoring leaves out are not among them."""
        sweep = LossSweep(noise=self.noise)
        kept = sweep.plan.timesteps() >= self.scoring.timestep_min
        if not bool(kept.any()):
            raise GroupError(
                f"scoring.timestep_min: {self.scoring.timestep_min} leaves no draw; lower it, or "
                "take more draws (noise.draws)"
            )
        work = [
            Work(f"queries|{name}", sweep, queries, delta)
            for name, delta in zip(names, deltas, strict=True)
        ]
        column = "loss_valid" if self.scoring.mask_padding else "loss"
        return [losses_of(result, column)[:, kept] for result in material.results(work)]

    def _rise(self, before: Tensor, after: Tensor) -> Tensor:
        rise = after - before
        return rise if self.scoring.score == "difference" else rise / (after + before)
