"""What an opened model must do, whatever it was trained on, and how well it denoises."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from tda_dagster.diffusion.latents import Conditioning, LatentSegments
from tda_dagster.diffusion.model import ModelError, MusicModel
from tda_dagster.diffusion.noise import keyed_generator
from tda_dagster.diffusion.objective import Denoiser, denoising_loss
from tda_dagster.diffusion.weights import first_line

_FRAMES = 4
"""Latent frames that the parts are tried on: enough for every layer, and soon done."""
_TIMESTEP = 0.5
_LONGEST_WINDOW_S = 3600.0
_LIGHT_NOISE = (0.2, 0.5, 0.8)
"""Timesteps at which something of the music is still there (σ/α of 0.3, 1 and 3)."""

_ROUNDING = 1e-5
"""Equal rows of a batch may differ by so much, relative to their norm."""

Result = TypeVar("Result")


@torch.no_grad()
def prove(model: MusicModel) -> None:
    """Raise ModelError, naming the component, unless the model's parts work together.

    The autoencoder must give latents of the denoiser's channels, two different captions must be
    conditioned on differently, and the denoiser must give finite velocities of the latents' shape.
    """
    channels, frames = model.latent_shape
    if model.window_seconds > _LONGEST_WINDOW_S:
        raise ModelError(
            f"transformer: sample_size is {frames}, which is a window of "
            f"{model.window_seconds:,.0f} s: it should be given in latent frames, not in samples"
        )
    frames = min(frames, _FRAMES)
    generator = keyed_generator(0, "proof")
    sound = torch.randn((1, model.audio_channels, frames * model.hop_length), generator=generator)
    latents = _tried("vae", lambda: model.encode(0.1 * sound))
    if latents.shape != (1, channels, frames):
        raise ModelError(
            f"vae: {frames} frames of {model.hop_length} samples become latents of the shape "
            f"{list(latents.shape[1:])}, but the transformer takes {[channels, frames]}: the parts "
            "are not of one pipeline"
        )
    captions = model.distinct_captions()
    conditioning = _tried("text_encoder", lambda: _conditioning(model, captions))
    told, other = conditioning.cross
    if bool((told - other).norm() <= _ROUNDING * told.norm()):
        raise ModelError(
            f"text_encoder: the captions {captions[0]!r} and {captions[1]!r} are the same to the "
            "model: their conditioning is equal"
        )
    timestep = torch.full((1,), _TIMESTEP, device=latents.device)
    velocity = _tried("transformer", lambda: model(latents, timestep, conditioning[:1]))
    if velocity.shape != latents.shape:
        raise ModelError(
            f"transformer: its predictions have the shape {list(velocity.shape[1:])}, but latents "
            f"have {list(latents.shape[1:])}"
        )
    for component, values in (
        ("vae", latents),
        ("text_encoder", conditioning.cross),
        ("projection_model", conditioning.global_),
        ("transformer", velocity),
    ):
        if not bool(values.isfinite().all()):
            raise ModelError(f"{component}: its weights are finite, but its output is not")


def _conditioning(model: MusicModel, captions: Sequence[str]) -> Conditioning:
    return model.condition(captions, [0.0] * len(captions), [model.window_seconds] * len(captions))


def _tried(component: str, compute: Callable[[], Result]) -> Result:
    try:
        return compute()
    except (RuntimeError, LookupError, ValueError, ArithmeticError, TypeError) as error:
        raise ModelError(
            f"{component}: it does not work with the other parts: {first_line(error)}"
        ) from error


@torch.no_grad()
def denoising_error(model: MusicModel, segments: LatentSegments) -> float:
    """How far noised music is from the original after denoising, relative to what it is when no
    noise is recognised: 0 is perfect, 1 is useless; a trained model is below 1.

    The estimate is x̂ = αx_t − σv̂, so its squared error is σ² (v̂ − v)², and that of v̂ = 0 is σ² v²:
    the figure is the ratio of the v-objective to the mean of v², the largest of several noise
    levels.
    """
    latents = segments.latents.to(model.device)
    mask = segments.frame_mask().to(model.device)
    conditioning = model.condition(
        segments.captions, segments.seconds_start, segments.seconds_total
    )
    noise = torch.stack(
        [
            torch.randn(latents.shape[1:], generator=keyed_generator(0, "denoising", name))
            for name in segments.segment_ids
        ]
    ).to(model.device)

    def loss(denoiser: Denoiser, timestep: float) -> float:
        timesteps = torch.full((len(segments),), timestep, device=model.device)
        per_segment = denoising_loss(denoiser, latents, conditioning, noise, timesteps, mask)
        return float(per_segment.sum())

    return max(loss(model, t) / loss(_nothing, t) for t in _LIGHT_NOISE)


def _nothing(noised: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
    return torch.zeros_like(noised)
