"""The cosine of gradients."""

from typing import ClassVar, Literal

from torch import Tensor

from tda_dagster.attribution.features import GradientSpec
from tda_dagster.attribution.methods.spec import Family, JointScoringSpec, Material
from tda_dagster.attribution.similarity import cosine
from tda_dagster.diffusion.latents import LatentSegments


class GradCosine(JointScoringSpec):
    """cos(g_q, g_i), with g the gradient of a piece's loss: as the inner product, but segments with
    large gradients, those that the model fits badly, do not come first for every query."""

    method: Literal["grad_cosine"] = "grad_cosine"
    family: ClassVar[Family] = "gradient"
    gradients: GradientSpec

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        asked = self.gradients.features(material.model, queries)
        return cosine(asked, material.features(self.gradients))
