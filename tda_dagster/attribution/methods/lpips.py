"""LPIPS over the denoiser's own activations: what looks alike to the model."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.gradients import DrawRows, draw_rows
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
    noise, so that a piece is at distance 0 from itself. From −4 to 0; in memory are the activations
    of all queries and of `batch_size` segments, for one draw at a time.
    """

    method: Literal["lpips"] = "lpips"
    family: ClassVar[Family] = "similarity"
    draws: int = Field(2, gt=0, description="noise levels at which activations are compared")
    batch_size: int = Field(64, gt=0)
    seed: int = 4

    def score(
        self, material: Material, queries: LatentSegments, segments: LatentSegments
    ) -> Tensor:
        model = material.model
        shared_frames = queries.frame_mask().double() @ segments.frame_mask().double().T
        alike = torch.zeros((len(queries), len(segments)), dtype=torch.float64)
        for k in range(self.draws):
            plan = NoisePlan(draws=self.draws, seed=self.seed, mode="shared", kept=(k,))
            batches = [
                _unit_activations(model, rows)
                for rows in draw_rows(model, queries, plan, self.batch_size)
            ]
            theirs = [torch.cat(parts) for parts in zip(*batches, strict=True)]
            start = 0
            for rows in draw_rows(model, segments, plan, self.batch_size):
                batch = slice(start, start + len(rows.mask))
                for one, other in zip(theirs, _unit_activations(model, rows), strict=True):
                    # Frames that are not valid are zero, and so without part in the sum.
                    alike[:, batch] += one.double() @ other.double().T
                start = batch.stop
        # ‖a − b‖² = 2 − 2⟨a, b⟩ for unit vectors.
        compared = self.draws * len(model.blocks) * shared_frames.clamp(min=1)
        return 2 * alike / compared - 2


def _unit_activations(model: MusicModel, rows: DrawRows) -> list[Tensor]:
    """Per block: float32 [rows, frames · width] on CPU, frames that are not valid zero."""
    noised, _ = diffuse(rows.latents, rows.noise, rows.timesteps)
    return [
        (torch.nn.functional.normalize(activation, dim=2) * rows.mask.unsqueeze(2)).flatten(1).cpu()
        for activation in model.activations(noised, rows.timesteps, rows.conditioning)
    ]
