"""Unlearning under the whole Fisher information."""

from typing import Literal

import torch
from pydantic import Field, field_validator

from tda_dagster.attribution.features import GradientSpec
from tda_dagster.attribution.influence import kernel_direction
from tda_dagster.attribution.methods.spec import Material, UnlearningSpec
from tda_dagster.attribution.sweep import mean_loss
from tda_dagster.attribution.unlearning import Unlearned, relative_norm
from tda_dagster.diffusion.latents import LatentSegments


class KernelUnlearning(UnlearningSpec):
    """One step of FIM-regularised unlearning (arXiv:2506.18312, section 3) along (F + λI)⁻¹·∇L(ẑ),
    with F the whole empirical Fisher information of the training segments rather than its diagonal.

    The step is as long as `relative_norm` says, for under the whole of F steps of one rate differ
    in length between queries more than losses bear. `kernel_influence` is what becomes of its
    scores when the step is made ever smaller. All training segments' gradients are in memory, so
    it is for models that are small.
    """

    method: Literal["kernel_unlearning"] = "kernel_unlearning"
    gradients: GradientSpec
    damping: float = Field(1.0, gt=0, description="relative to the kernel's mean eigenvalue")
    relative_norm: float = Field(1e-3, gt=0, description="‖Δ‖/‖θ₀‖ of the changed weights")

    @field_validator("gradients")
    @classmethod
    def _whole(cls, gradients: GradientSpec) -> GradientSpec:
        # A projection says how alike gradients are, but a step needs the gradient itself.
        return gradients.model_copy(update={"dimension": None})

    @property
    def label(self) -> str:
        return (
            f"kernel unlearning, step {self.relative_norm:g}, λ {self.damping:g}"
            f"{self.scoring_label}"
        )

    @property
    def unlearning_forwards(self) -> int:
        return 4 * self.gradients.draws

    def unlearn(self, material: Material, query: LatentSegments) -> Unlearned:
        model = material.model
        names = model.layer_group(self.gradients.layer_group)
        base = model.weights(names)
        (gradient,) = self.gradients.features(model, query)
        direction = kernel_direction(gradient, material.features(self.gradients), self.damping)
        parts = torch.split(direction, [base[name].numel() for name in names])
        step = {
            name: part.view_as(base[name]).float().to(model.device)
            for name, part in zip(names, parts, strict=True)
        }
        scale = self.relative_norm / relative_norm(step, base, query)
        delta = {name: scale * part for name, part in step.items()}
        options = self.gradients
        loss = mean_loss(model, query, options.plan, mask_padding=options.mask_padding)
        return Unlearned(delta, (loss,), relative_norm(delta, base, query))
