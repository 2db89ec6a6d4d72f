"""The training objective of Stable Audio, computed in one place.

Training, Fisher information, unlearning and loss sweeps all call `denoising_loss`; nothing else
in the project knows what the model's loss is.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from tda_dagster.diffusion.latents import Conditioning


class Denoiser(Protocol):
    """Predicts the velocity v [n, C, T] of noised latents [n, C, T] at timesteps [n]."""

    def __call__(self, noised: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor: ...


class Objective(Protocol):
    """A figure per example, float32 [n], of what a denoiser predicts; arguments as those of
    `denoising_loss`."""

    def __call__(
        self,
        denoiser: Denoiser,
        latents: Tensor,
        conditioning: Conditioning,
        noise: Tensor,
        timesteps: Tensor,
        frame_mask: Tensor | None = None,
    ) -> Tensor: ...


def diffuse(latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Noised latents and their velocity target, each like `latents` [n, C, T].

    With α = cos(πt/2) and σ = sin(πt/2): x_t = αx + σε and v = αε − σx, for t [n] in (0, 1)
    (Salimans & Ho, arXiv:2202.00512, with the angle parametrised by t). `diffusers` samples with
    the same convention: `CosineDPMSolverMultistepScheduler` maps σ/α to t = (2/π)·atan(σ/α).
    """
    angle = (timesteps * (math.pi / 2)).view(-1, 1, 1)
    alpha, sigma = torch.cos(angle), torch.sin(angle)
    return alpha * latents + sigma * noise, alpha * noise - sigma * latents


def frame_losses(
    denoiser: Denoiser,
    latents: Tensor,
    conditioning: Conditioning,
    noise: Tensor,
    timesteps: Tensor,
) -> Tensor:
    """The v-objective per frame: mean of (v̂ − v)² over channels, float32 [n, T].

    `latents` and `noise` are [n, C, T], `timesteps` [n].
    """
    noised, target = diffuse(latents, noise, timesteps)
    return (denoiser(noised, timesteps, conditioning) - target).square().mean(dim=1)


def mean_over(frames: Tensor, frame_mask: Tensor | None) -> Tensor:
    """The mean of per-frame losses [n, T] per example, float32 [n], over the frames that
    `frame_mask` (bool [n, T]) counts: padding has no say then. All frames without a mask."""
    if frame_mask is None:
        return frames.mean(dim=1)
    weights = frame_mask.to(frames.dtype)
    return (frames * weights).sum(dim=1) / weights.sum(dim=1)


def denoising_loss(
    denoiser: Denoiser,
    latents: Tensor,
    conditioning: Conditioning,
    noise: Tensor,
    timesteps: Tensor,
    frame_mask: Tensor | None = None,
) -> Tensor:
    """The v-objective per example: mean of (v̂ − v)² over its latent entries, float32 [n].

    `latents` and `noise` are [n, C, T], `timesteps` [n]; `frame_mask` (bool [n, T], true =
    counted) restricts the mean to the valid frames, so that padding has no say.
    """
    frames = frame_losses(denoiser, latents, conditioning, noise, timesteps)
    return mean_over(frames, frame_mask)


def prediction_energy(
    denoiser: Denoiser,
    latents: Tensor,
    conditioning: Conditioning,
    noise: Tensor,
    timesteps: Tensor,
    frame_mask: Tensor | None = None,
) -> Tensor:
    """The mean of v̂² per example, float32 [n]: what D-TRAK differentiates in the loss's place
    (arXiv:2311.00500, section 3.2). Arguments as those of `denoising_loss`."""
    noised, _ = diffuse(latents, noise, timesteps)
    frames = denoiser(noised, timesteps, conditioning).square().mean(dim=1)
    return mean_over(frames, frame_mask)


def prediction_mean(
    denoiser: Denoiser,
    latents: Tensor,
    conditioning: Conditioning,
    noise: Tensor,
    timesteps: Tensor,
    frame_mask: Tensor | None = None,
) -> Tensor:
    """The mean of v̂ per example, float32 [n]: the one number that DAS makes of a prediction to
    differentiate it (arXiv:2410.18639). Arguments as those of `denoising_loss`."""
    noised, _ = diffuse(latents, noise, timesteps)
    return mean_over(denoiser(noised, timesteps, conditioning).mean(dim=1), frame_mask)
