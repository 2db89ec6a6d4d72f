"""The inner product of gradients."""

from typing import ClassVar, Literal

from torch import Tensor

from tda_dagster.attribution.features import GradientSpec
from tda_dagster.attribution.influence import inner_products
from tda_dagster.attribution.methods.spec import Family, JointScoringSpec, Material
from tda_dagster.diffusion.latents import LatentSegments


class GradDot(JointScoringSpec):
    """⟨g_q, g_i⟩, with g the gradient of a piece's loss: how much a step of plain gradient descent
    on the segment lowers the query's loss, to first order and per unit of the rate."""

    method: Literal["grad_dot"] = "grad_dot"
    family: ClassVar[Family] = "gradient"
    gradients: GradientSpec

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        asked = self.gradients.features(material.model, queries)
        return inner_products(asked, material.features(self.gradients))
