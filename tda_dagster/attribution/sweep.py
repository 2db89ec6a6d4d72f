"""The loss sweep: the loss of every segment, for one set of weights, under the noise plan."""

from collections.abc import Mapping

import polars as pl
import torch
from torch import Tensor

from tda_dagster.attribution.gradients import draw_rows
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.objective import frame_losses, mean_over

LOSS_SCHEMA = {
    "segment_id": pl.String,
    "draw": pl.Int64,
    "timestep": pl.Float64,
    "loss": pl.Float64,
    "loss_valid": pl.Float64,
}


@torch.no_grad()
def sweep(
    model: MusicModel,
    segments: LatentSegments,
    plan: NoisePlan,
    delta: Mapping[str, Tensor] | None = None,
    *,
    batch_size: int = 64,
) -> pl.DataFrame:
    """Losses of the segments under θ₀ + delta (θ₀ when there is none), one row per draw.

    `loss` is the mean over all frames, `loss_valid` over the valid ones (the paper's M_L): one
    forward pass gives both. Columns as `LOSS_SCHEMA`, ordered as the segments, draws running
    fastest. The noise a segment meets depends on the plan and its draw key alone.
    """
    losses, valid = [], []
    with model.shifted(delta or {}):
        for rows in draw_rows(model, segments, plan, batch_size):
            frames = frame_losses(
                model, rows.latents, rows.conditioning, rows.noise, rows.timesteps
            )
            losses.append(mean_over(frames, None))
            valid.append(mean_over(frames, rows.mask))
    draws = len(plan.indices)
    return pl.DataFrame(
        {
            "segment_id": [name for name in segments.segment_ids for _ in range(draws)],
            "draw": list(plan.indices) * len(segments),
            "timestep": plan.timesteps().double().repeat(len(segments)).numpy(),
            "loss": torch.cat(losses).double().cpu().numpy(),
            "loss_valid": torch.cat(valid).double().cpu().numpy(),
        },
        schema=LOSS_SCHEMA,
    )


def mean_loss(
    model: MusicModel,
    segments: LatentSegments,
    plan: NoisePlan,
    delta: Mapping[str, Tensor] | None = None,
    *,
    mask_padding: bool,
) -> float:
    """The mean of the segments' losses over all draws, under θ₀ + delta; over valid frames only
    with `mask_padding`."""
    losses = sweep(model, segments, plan, delta)["loss_valid" if mask_padding else "loss"]
    return float(losses.to_numpy().mean())
