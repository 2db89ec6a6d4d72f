"""LPIPS over the denoiser's own activations: what looks alike to the model."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.gradients import draw_rows
from tda_dagster.attribution.methods.spec import Family, Material, ScoringSpec
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.objective import diffuse


class Lpips(ScoringSpec):
    """Minus the perceptual distance of arXiv:1801.03924 (eq. 1, with all weights one) in the
    activations of the denoiser's blocks.

    d(q, i) = mean over draws and blocks of the mean over frames of ‖a_q − a_i‖², with activations
    unit-normalised over width, and frames those that are valid in both. All pieces meet the same
    noise, so that a piece is at distance 0 from itself.
    """

    method: Literal["lpips"] = "lpips"
    family: ClassVar[Family] = "similarity"
    draws: int = Field(2, gt=0, description="noise levels at which activations are compared")
    batch_size: int = Field(64, gt=0)
    seed: int = 4

    def score(
        self, material: Material, queries: LatentSegments, segments: LatentSegments
    ) -> Tensor:
        shared_frames = queries.frame_mask().double() @ segments.frame_mask().double().T
        alike = torch.zeros((len(queries), len(segments)), dtype=torch.float64)
        blocks = 0
        ours = self._activations(material.model, segments)
        for theirs, activations in zip(
            self._activations(material.model, queries), ours, strict=True
        ):
            # Frames that are not valid are zero, and so without part in the sum.
            alike += theirs.double() @ activations.double().T
            blocks += 1
        # ‖a − b‖² = 2 − 2⟨a, b⟩ for unit vectors.
        return 2 * alike / (blocks * shared_frames.clamp(min=1)) - 2

    def _activations(self, model: MusicModel, pieces: LatentSegments) -> list[Tensor]:
        """Per draw and block: float32 [pieces, frames · width], frames that are not valid zero."""
        found: list[list[Tensor]] = []
        for k in range(self.draws):
            plan = NoisePlan(draws=self.draws, seed=self.seed, mode="shared", kept=(k,))
            per_block: list[list[Tensor]] = []
            for rows in draw_rows(model, pieces, plan, self.batch_size):
                noised, _ = diffuse(rows.latents, rows.noise, rows.timesteps)
                activations = model.activations(noised, rows.timesteps, rows.conditioning)
                per_block = per_block or [[] for _ in activations]
                for block, activation in zip(per_block, activations, strict=True):
                    unit = torch.nn.functional.normalize(activation, dim=2)
                    block.append((unit * rows.mask.unsqueeze(2)).flatten(1).cpu())
            found += per_block
        return [torch.cat(parts) for parts in found]
