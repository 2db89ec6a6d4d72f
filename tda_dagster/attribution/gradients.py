"""Gradients of the denoising loss with respect to named weights, one per example or averaged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from tda_dagster.diffusion.latents import Conditioning, LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.objective import Objective, denoising_loss
from tda_dagster.numerics import UnfusedAttention


def per_example_gradients(
    model: MusicModel,
    names: Sequence[str],
    segments: LatentSegments,
    plan: NoisePlan,
    *,
    mask_padding: bool,
    batch_size: int,
    objective: Objective = denoising_loss,
) -> Iterator[dict[str, Tensor]]:
    """Gradients of every (segment, draw), in chunks of at most `batch_size` rows; of the loss, or
    of another objective.

    Yields name → float32 [rows, *parameter shape], rows running over draws within segments. One
    example's gradient does not depend on the others of its chunk: they are taken with
    `vmap(grad)`, never as a gradient of a batch.
    """
    weights = model.weights(names)
    gradient = grad(_of_one(model, objective))
    vectorised = vmap(gradient, in_dims=(None, 0, 0, 0, 0, 0, 0))
    waiting = draw_rows(model, segments, plan, batch_size)
    while True:
        rows = next(waiting, None)
        if rows is None:
            return
        with UnfusedAttention():  # vmap cannot go through the fused attention kernels
            gradients = vectorised(
                weights,
                rows.latents,
                rows.noise,
                rows.timesteps,
                rows.conditioning.cross,
                rows.conditioning.global_,
                rows.mask if mask_padding else torch.ones_like(rows.mask),
            )
        yield gradients


def mean_gradient(
    model: MusicModel,
    names: Sequence[str],
    segments: LatentSegments,
    plan: NoisePlan,
    *,
    mask_padding: bool,
    batch_size: int,
) -> tuple[dict[str, Tensor], float]:
    """The gradient and the value of the loss averaged over all segments and draws.

    The gradient is name → float32 like the parameter; chunks only bound the memory.
    """
    weights = {n: w.clone().requires_grad_(True) for n, w in model.weights(names).items()}
    total = len(segments) * len(plan.indices)
    value = 0.0

    def denoise(noised: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return model.predict(weights, noised, timesteps, conditioning)

    for rows in draw_rows(model, segments, plan, batch_size):
        losses = denoising_loss(
            denoise,
            rows.latents,
            rows.conditioning,
            rows.noise,
            rows.timesteps,
            rows.mask if mask_padding else None,
        )
        torch.autograd.backward(losses.sum() / total)
        value += float(losses.detach().double().sum()) / total
    return {n: w.grad for n, w in weights.items() if w.grad is not None}, value


@dataclass(frozen=True)
class DrawRows:
    """A chunk of (segment, draw) rows, ready for the loss: all tensors have [rows] first."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    conditioning: Conditioning
    mask: Tensor


def draw_rows(
    model: MusicModel, segments: LatentSegments, plan: NoisePlan, batch_size: int
) -> Iterator[DrawRows]:
    """All (segment, draw) rows in chunks, draws running fastest.

    Noise is drawn for the segments of a chunk only, so memory does not grow with the shard.
    """
    device = model.device
    conditioning = model.condition(
        segments.captions, segments.seconds_start, segments.seconds_total
    )
    mask = segments.frame_mask()
    timesteps = plan.timesteps()
    draws = len(plan.indices)
    count = len(segments) * draws
    for start in range(0, count, batch_size):
        flat = torch.arange(start, min(start + batch_size, count))
        who, draw = flat // draws, flat % draws
        first = int(who[0])
        present = segments.keys[first : int(who[-1]) + 1]
        noise = plan.noise(present, model.latent_shape)[who - first, draw]
        yield DrawRows(
            segments.latents[who].to(device),
            noise.to(device),
            timesteps[draw].to(device),
            conditioning[who.to(device)],
            mask[who].to(device),
        )


def _of_one(model: MusicModel, objective: Objective):  # type: ignore[no-untyped-def]  # vmap's callable has no type
    def value(
        weights: Mapping[str, Tensor],
        latents: Tensor,
        noise: Tensor,
        timestep: Tensor,
        cross: Tensor,
        global_: Tensor,
        mask: Tensor,
    ) -> Tensor:
        def denoise(noised: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            return model.predict(weights, noised, timesteps, conditioning)

        return objective(
            denoise,
            latents.unsqueeze(0),
            Conditioning(cross.unsqueeze(0), global_.unsqueeze(0)),
            noise.unsqueeze(0),
            timestep.unsqueeze(0),
            mask.unsqueeze(0),
        )[0]

    return value
