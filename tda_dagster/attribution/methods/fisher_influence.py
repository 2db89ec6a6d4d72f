"""Influence under the diagonal Fisher information: the derivative of FIM unlearning."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.gradients import mean_gradient, per_example_gradients
from tda_dagster.attribution.methods.spec import Family, Material, ScoringSpec
from tda_dagster.attribution.unlearning import inverse_curvature
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.settings import UnlearningSettings


class FisherInfluence(ScoringSpec):
    """g_i·(F + λF̄)⁻¹·∇L(ẑ)/N, with F the diagonal Fisher information: how fast segment i's loss
    rises along the step that FIM unlearning takes (`unlearning.unlearn`), in units of its learning
    rate, without a step and so without what is not linear about one.

    ∇L(ẑ) is the very gradient that is unlearned by; nothing is projected.
    """

    method: Literal["fisher_influence"] = "fisher_influence"
    family: ClassVar[Family] = "unlearning"
    unlearning: UnlearningSettings
    draws: int = Field(16, gt=0, description="draws a segment's gradient is averaged over")
    seed: int = 7

    def score(
        self, material: Material, queries: LatentSegments, segments: LatentSegments
    ) -> Tensor:
        return self.samples(material, queries, segments).mean(dim=0)

    def samples(
        self, material: Material, queries: LatentSegments, segments: LatentSegments
    ) -> Tensor:
        """One per draw of the segments' losses."""
        options = self.unlearning
        model, fisher = material.model, material.fisher
        names = model.layer_group(options.layer_group)
        inverse = inverse_curvature(fisher.select(names).diagonal(), options.damping)
        plan = NoisePlan(draws=options.draws, seed=options.seed)
        ways = []
        for row in range(len(queries)):
            gradient, _ = mean_gradient(
                model,
                names,
                queries.take([row]),
                plan,
                mask_padding=options.mask_padding,
                batch_size=16,
            )
            ways.append(
                torch.cat([(inverse[n] * gradient[n].double().cpu()).flatten() for n in names])
            )
        directions = torch.stack(ways) / fisher.segments
        rises = [
            torch.cat([gradients[n].flatten(1) for n in names], dim=1).double().cpu() @ directions.T
            for gradients in per_example_gradients(
                model,
                names,
                segments,
                NoisePlan(draws=self.draws, seed=self.seed),
                mask_padding=False,
                batch_size=16,
            )
        ]
        return torch.cat(rises).reshape(len(segments), self.draws, -1).permute(1, 2, 0)
