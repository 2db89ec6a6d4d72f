"""Influence under Fisher information that is factored by layers."""

from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from tda_dagster.attribution.ekfac import KroneckerFactors, kronecker_factors, layer_gradients
from tda_dagster.attribution.features import OBJECTIVES, GradientSpec
from tda_dagster.attribution.methods.spec import Family, JointScoringSpec, Material
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel


class EkfacInfluence(JointScoringSpec):
    """g_i·(F + λI)⁻¹·g_q/N with the empirical Fisher information F of each linear map in its
    Kronecker-factored eigenbasis (EK-FAC, arXiv:1806.03884; influence by it: Grosse et al.,
    arXiv:2308.03296, section 3.2).

    It stands between `fisher_influence`, which takes weights for strangers, and `kernel_influence`,
    which needs all segments' gradients at once: memory here is that of the layers. Norms and
    convolutions, which have no such factors, have no part in it, and nothing is projected.
    """

    method: Literal["ekfac_influence"] = "ekfac_influence"
    family: ClassVar[Family] = "gradient"
    gradients: GradientSpec
    damping: float = Field(0.1, gt=0, description="relative to each layer's mean eigenvalue")

    @field_validator("gradients")
    @classmethod
    def _whole(cls, gradients: GradientSpec) -> GradientSpec:
        if gradients.draw_weights != "equal":
            raise ValueError(
                "draw_weights: gradients that are kept as products of a layer's inputs and outputs "
                "have no norms to divide by; take equal"
            )
        return gradients.model_copy(update={"dimension": None})

    @property
    def label(self) -> str:
        return f"EK-FAC influence, {self.gradients.label}, λ {self.damping:g}"

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        return self.samples(material, queries).mean(dim=0)

    def samples(self, material: Material, queries: LatentSegments) -> Tensor:
        """One per draw of the segments' gradients."""
        model, train = material.model, material.train
        factors = kronecker_factors(lambda: self._gradients(model, train))
        directions = self._directions(model, queries, factors)
        rows = [
            sum(
                torch.einsum("roi,qoi->rq", gradient.weight.double().cpu(), directions[name])
                for name, gradient in batch.items()
            )
            for batch in self._gradients(model, train)
        ]
        scores = torch.cat(rows) / len(train)  # type: ignore[arg-type]
        return scores.reshape(len(train), self.gradients.draws, -1).permute(1, 2, 0)

    def _directions(
        self, model: MusicModel, queries: LatentSegments, factors: dict[str, KroneckerFactors]
    ) -> dict[str, Tensor]:
        """(F + λI)⁻¹·g_q per layer, float64 [queries, out, in] on CPU."""
        parts: dict[str, list[Tensor]] = {name: [] for name in factors}
        for batch in self._gradients(model, queries):
            for name, gradient in batch.items():
                parts[name].append(gradient.weight.double())
        means = {
            name: torch.cat(rows)
            .reshape(len(queries), self.gradients.draws, *rows[0].shape[1:])
            .mean(dim=1)
            for name, rows in parts.items()
        }
        return {name: factors[name].inverse(g, self.damping).cpu() for name, g in means.items()}

    def _gradients(self, model: MusicModel, pieces: LatentSegments):  # type: ignore[no-untyped-def]
        options = self.gradients
        return layer_gradients(
            model,
            model.layer_group(options.layer_group),
            pieces,
            options.plan,
            mask_padding=options.mask_padding,
            batch_size=options.batch_size,
            objective=OBJECTIVES[options.objective],
        )
