"""The loss sweep: the loss of every segment, for one set of weights, under the noise plan."""

from collections.abc import Mapping

import polars as pl
import torch
from torch import Tensor

from tda_dagster.attribution.gradients import draw_rows
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.objective import denoising_loss

LOSS_SCHEMA = {
    "segment_id": pl.String,
    "draw": pl.Int64,
    "timestep": pl.Float64,
    "loss": pl.Float64,
}


@torch.no_grad()
def sweep(
    model: MusicModel,
    segments: LatentSegments,
    plan: NoisePlan,
    delta: Mapping[str, Tensor] | None = None,
    *,
    mask_padding: bool = False,
    batch_size: int = 64,
) -> pl.DataFrame:
    """Losses of the segments under θ₀ + delta (θ₀ when there is none), one row per draw.

    `mask_padding` is the paper's M_L. Columns as `LOSS_SCHEMA`, ordered as the segments, draws
    running fastest. The noise a segment meets depends on the plan and its id alone.
    """
    losses = []
    with model.shifted(delta or {}):
        for rows in draw_rows(model, segments, plan, batch_size):
            losses.append(
                denoising_loss(
                    model,
                    rows.latents,
                    rows.conditioning,
                    rows.noise,
                    rows.timesteps,
                    rows.mask if mask_padding else None,
                )
            )
    timesteps = plan.timesteps().double()
    return pl.DataFrame(
        {
            "segment_id": [name for name in segments.segment_ids for _ in range(plan.draws)],
            "draw": list(range(plan.draws)) * len(segments),
            "timestep": timesteps.repeat(len(segments)).numpy(),
            "loss": torch.cat(losses).double().cpu().numpy(),
        },
        schema=LOSS_SCHEMA,
    )
