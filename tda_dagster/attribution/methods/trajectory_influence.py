"""Influence along the whole training, not at its end alone."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.influence import kernel_influence
from tda_dagster.attribution.methods.gradient_influence import Ask, GradientInfluenceSpec
from tda_dagster.attribution.methods.spec import Family, Material, stored_checkpoints


class TrajectoryInfluence(GradientInfluenceSpec):
    """The mean over training checkpoints of `kernel_influence` under each: how fast segments are
    forgotten with the query by the models that the training passed through.

    What was learnt from a segment early is at the end part of what all segments share, and the
    gradients of segments that the model has by then memorised are small: at the end alone much of
    a segment's influence cannot be seen. TracIn (arXiv:2002.08484) sums over checkpoints for the
    same reason, with a curvature of one. Every checkpoint's scores are divided by the root mean
    square of those that training segments have of each other, so that none outweighs the others by
    its scale.
    """

    method: Literal["trajectory_influence"] = "trajectory_influence"
    family: ClassVar[Family] = "unlearning"
    damping: float = Field(1.0, gt=0, description="relative to each kernel's mean eigenvalue")

    @property
    def label(self) -> str:
        return f"trajectory influence, {self.gradients.label}, λ {self.damping:g}"

    def influence(self, material: Material, ask: Ask) -> Tensor:
        scores = []
        for checkpoint in stored_checkpoints(material, self.method):
            asked = ask(material.model_at(checkpoint))
            segments = material.features(self.features, checkpoint)
            own = kernel_influence(segments, segments, self.damping).square().mean().sqrt()
            scores.append(kernel_influence(asked, segments, self.damping) / own)
        return torch.stack(scores).mean(dim=0)
