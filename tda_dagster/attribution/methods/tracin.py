"""TracIn: inner products of gradients along the training."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from tda_dagster.attribution.influence import inner_products
from tda_dagster.attribution.methods.gradient_influence import Ask, GradientInfluenceSpec
from tda_dagster.attribution.methods.spec import Family, Material, stored_checkpoints


class TracIn(GradientInfluenceSpec):
    """Σ over stored checkpoints of η_k·⟨g_q(θ_k), g_i(θ_k)⟩ (Pruthi et al., arXiv:2002.08484, eq.
    3), with η_k the learning rate there: what the training's steps on the segment took off the
    query's loss, had each been of plain gradient descent."""

    method: Literal["tracin"] = "tracin"
    family: ClassVar[Family] = "gradient"

    def influence(self, material: Material, ask: Ask) -> Tensor:
        parts = []
        for checkpoint in stored_checkpoints(material, self.method):
            asked = ask(material.model_at(checkpoint))
            segments = material.features(self.features, checkpoint)
            parts.append(checkpoint.learning_rate * inner_products(asked, segments))
        return torch.stack(parts).sum(dim=0)
