"""The inner product of gradients."""

from typing import ClassVar, Literal

from torch import Tensor

from tda_dagster.attribution.influence import inner_products
from tda_dagster.attribution.methods.gradient_influence import Ask, GradientInfluenceSpec
from tda_dagster.attribution.methods.spec import Family, Material


class GradDot(GradientInfluenceSpec):
    """⟨g_q, g_i⟩, with g the gradient of a piece's loss: how much a step of plain gradient descent
    on the segment lowers the query's loss, to first order and per unit of the rate."""

    method: Literal["grad_dot"] = "grad_dot"
    family: ClassVar[Family] = "gradient"

    def influence(self, material: Material, ask: Ask) -> Tensor:
        return inner_products(ask(material.model), material.features(self.features))
