"""Influence along the whole training, not at its end alone."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.features import GradientSpec
from tda_dagster.attribution.influence import kernel_influence
from tda_dagster.attribution.methods.spec import (
    Family,
    JointScoringSpec,
    Material,
    stored_checkpoints,
)
from tda_dagster.diffusion.latents import LatentSegments


class TrajectoryInfluence(JointScoringSpec):
    """The mean over training checkpoints of `kernel_influence` under each: how fast segments are
    forgotten with the query by the models that the training passed through.

    What was learnt from a segment early is at the end part of what all segments share, and the
    gradients of segments that the model has by then memorised are small: at the end alone much of
    a segment's influence cannot be seen. TracIn (arXiv:2002.08484) sums over checkpoints for the
    same reason, with a curvature of one. Every checkpoint's scores are divided by their root mean
    square over all queries and segments, so that none outweighs the others by its scale.
    """

    method: Literal["trajectory_influence"] = "trajectory_influence"
    family: ClassVar[Family] = "unlearning"
    gradients: GradientSpec
    damping: float = Field(1.0, gt=0, description="relative to each kernel's mean eigenvalue")

    @property
    def label(self) -> str:
        return f"trajectory influence, {self.gradients.label}, λ {self.damping:g}"

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        scores = []
        for checkpoint in stored_checkpoints(material, self.method):
            asked = self.gradients.features(material.model_at(checkpoint), queries)
            segments = material.features(self.gradients, checkpoint)
            found = kernel_influence(asked, segments, self.damping)
            scores.append(found / found.square().mean().sqrt())
        return torch.stack(scores).mean(dim=0)
