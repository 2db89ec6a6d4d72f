"""Representer points of the denoiser's output layer."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.gradients import per_example_gradients
from tda_dagster.attribution.methods.spec import Family, Material, ScoringSpec
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan


class Representer(ScoringSpec):
    """⟨G_q, G_i⟩, with G the gradient of a piece's loss in the weights of the last linear map,
    averaged over draws (Yeh et al., arXiv:1811.09720, eq. 3 and theorem 3.1).

    G = Σ over frames of (gradient at the output) ⊗ (features that enter), so the score is the sum
    over pairs of frames of α_qᵀα_i · f_qᵀf_i: representer values α weighted by how alike features
    are. Positive: a training step on the segment lowers the query's loss, to first order by the
    score times the rate of plain gradient descent in this layer. The theorem itself, that
    these sums make up the prediction, asks for a last layer at a stationary point of a loss with
    L2 regularisation, which a diffusion model trained with early stopping is not; what remains is
    the similarity that it defines.
    """

    method: Literal["representer"] = "representer"
    family: ClassVar[Family] = "gradient"
    draws: int = Field(4, gt=0, description="draws the gradients are averaged over")
    batch_size: int = Field(16, gt=0, description="per-example gradients held in memory")
    seed: int = 5

    def score(
        self, material: Material, queries: LatentSegments, segments: LatentSegments
    ) -> Tensor:
        theirs, ours = (self._gradients(material.model, part) for part in (queries, segments))
        return theirs @ ours.T

    def _gradients(self, model: MusicModel, pieces: LatentSegments) -> Tensor:
        """Float64 [pieces, numbers of the layer], over valid frames, averaged over draws."""
        plan = NoisePlan(draws=self.draws, seed=self.seed)
        name = model.output_layer
        rows = [
            gradients[name].flatten(1).double().cpu()
            for gradients in per_example_gradients(
                model, [name], pieces, plan, mask_padding=True, batch_size=self.batch_size
            )
        ]
        return torch.cat(rows).reshape(len(pieces), self.draws, -1).mean(dim=1)
