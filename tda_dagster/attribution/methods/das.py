"""DAS: how far the prediction would move without a segment."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.features import GradientSpec
from tda_dagster.attribution.influence import kernel_influence
from tda_dagster.attribution.methods.spec import Family, JointScoringSpec, Material
from tda_dagster.attribution.sweep import sweep
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.settings import GradientSettings


class Das(JointScoringSpec):
    """The Diffusion Attribution Score (Lin et al., arXiv:2410.18639): the square of
    φ_q·C⁻¹·φ_i·r_i/(1 − h_i), by which the prediction for the query would move, after one Newton
    step, were the segment left out.

    φ is the projected gradient of the mean of the prediction (the paper's reduction of it to one
    number), C the features' damped second moment, h_i = φ_i·C⁻¹·φ_i the segment's leverage, and r_i
    the root of its mean square error. The authors' code picks λ by the LDS that it reports; here it
    is a setting like any other.
    """

    method: Literal["das"] = "das"
    family: ClassVar[Family] = "gradient"
    gradients: GradientSettings
    damping: float = Field(1e-2, gt=0, description="relative to the kernel's mean eigenvalue")

    @property
    def label(self) -> str:
        return f"DAS, {self._features.label}, λ {self.damping:g}"

    @property
    def _features(self) -> GradientSpec:
        return GradientSpec(**dict(self.gradients), objective="mean")

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        spec = self._features
        model, train = material.model, material.train
        asked, segments = spec.features(model, queries), material.features(spec)
        moves = kernel_influence(asked, segments, self.damping)
        leverage = kernel_influence(segments, segments, self.damping).diagonal()
        losses = sweep(model, train, spec.plan)["loss_valid" if spec.mask_padding else "loss"]
        errors = torch.from_numpy(losses.to_numpy().copy()).reshape(len(train), -1).mean(dim=1)
        return (moves * errors.sqrt() / (1 - leverage)).square()
