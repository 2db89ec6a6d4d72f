"""The interface between attribution and a text-to-music model.

What belongs here: what every diffusion pipeline must offer so that its music can be attributed.
What a given pipeline class does differently lives in its adapter, one file per class; `opening`
finds the adapter for a pipeline directory.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from tda_dagster.diffusion.latents import Conditioning
from tda_dagster.diffusion.noise import keyed_generator
from tda_dagster.errors import TdaError


class ModelError(TdaError):
    """A model that cannot be opened or asked for something it does not have."""


class MusicModel(ABC):
    """A diffusers pipeline seen as an encoder, a conditioner, a denoiser and a generator.

    It is its own `Denoiser`: calling it predicts velocities.
    """

    pipeline_class: type[DiffusionPipeline]
    objective: str
    """How the model was trained, in words."""
    modules: Mapping[str, Mapping[str, Any] | None]
    """The pipeline's modules by name, in the order of opening: the classes that each may be of, by
    name; None stands for any model of transformers."""

    pipeline: DiffusionPipeline

    sampling_rate: int
    """Sampling rate of the audio, Hz."""
    audio_channels: int
    hop_length: int
    """Audio samples per latent frame."""
    latent_shape: tuple[int, int]
    """(channels, frames) of one segment's latents."""

    @staticmethod
    @abstractmethod
    def scheduler_of(name: str, config: Mapping[str, Any]) -> Any:
        """The scheduler of class `name` and settings `config`; raises ModelError unless its noise
        levels and prediction type are those of the objective."""

    @staticmethod
    @abstractmethod
    def require_consistent(configs: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise ModelError, naming the module, unless the modules' settings fit each other."""

    @staticmethod
    @abstractmethod
    def require_vocabulary(tokenizer: Any, text_encoder: nn.Module) -> None:
        """Raise ModelError unless the tokenizer's pieces are those of the text encoder."""

    @abstractmethod
    def distinct_captions(self) -> tuple[str, str]:
        """Two captions of the vocabulary with different tokens; raises ModelError if there are
        none."""

    @property
    @abstractmethod
    def denoiser(self) -> nn.Module:
        """The module whose weights are attributed."""

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """Latents [n, C, T] (float32) of audio [n, audio channels, samples] in [-1, 1]."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Audio [n, audio channels, samples] of latents [n, C, T]."""

    @abstractmethod
    def condition(
        self,
        captions: Sequence[str],
        seconds_start: Sequence[float],
        seconds_total: Sequence[float],
    ) -> Conditioning:
        """The conditioning of captions and times (s)."""

    @abstractmethod
    def predict(
        self, weights: Mapping[str, Tensor], noised: Tensor, timesteps: Tensor, cond: Conditioning
    ) -> Tensor:
        """Velocities under the denoiser with the named `weights` put in place, functionally."""

    @abstractmethod
    def __call__(self, noised: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Velocities [n, C, T] of noised latents [n, C, T] at timesteps [n] in (0, 1)."""

    @abstractmethod
    def generate(
        self,
        prompt: str,
        *,
        negative_prompt: str,
        seed: int,
        seconds: float,
        steps: int,
        guidance_scale: float,
    ) -> Tensor:
        """Latents [C, T] generated from a prompt; the first `seconds` of them are the piece."""

    @abstractmethod
    def layer_groups(self) -> dict[str, tuple[str, ...]]:
        """Named groups of denoiser parameters, each the sorted parameter names."""

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The denoiser's blocks in order; each gives [n, tokens, width], frames last."""

    @property
    @abstractmethod
    def output_layer(self) -> str:
        """The name of the weights of the denoiser's last linear map over frames."""

    @torch.no_grad()
    def activations(
        self, noised: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> list[Tensor]:
        """The output of each block at the frames, [n, T, width], for rows as `__call__` takes
        them; tokens that are prepended to the frames are left out."""
        found: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda _module, _inputs, output: found.append(output))
            for block in self.blocks
        ]
        try:
            self(noised, timesteps, conditioning)
        finally:
            for hook in hooks:
                hook.remove()
        return [output[:, -noised.shape[2] :] for output in found]

    def freshly_initialised(self, seed: int) -> dict[str, Tensor]:
        """Weights of all linear maps and convolutions as they are before any training, by name:
        uniform in ±1/√(fan in), PyTorch's own initialisation, drawn from the seed. Other weights,
        those of norms, are not among them; nor are zeros that a training chose to start from, which
        a pipeline does not tell."""
        fresh = {}
        for prefix, module in self.denoiser.named_modules():
            if not isinstance(module, nn.Linear | nn.Conv1d):
                continue
            bound = 1 / math.sqrt(module.weight[0].numel())
            for name, value in module.named_parameters(recurse=False):
                path = f"{prefix}.{name}"
                drawn = torch.rand(value.shape, generator=keyed_generator(seed, path))
                fresh[path] = ((2 * drawn - 1) * bound).to(value.device)
        return fresh

    @property
    def window_samples(self) -> int:
        """Audio samples of one segment."""
        return self.latent_shape[1] * self.hop_length

    @property
    def window_seconds(self) -> float:
        return self.window_samples / self.sampling_rate

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def layer_group(self, name: str) -> tuple[str, ...]:
        """The parameter names of a layer group; an unknown name lists those that exist."""
        groups = self.layer_groups()
        if name not in groups:
            sizes = ", ".join(f"{g} ({self.parameter_count(p):,})" for g, p in groups.items())
            raise ModelError(
                f"layer_group: {name!r} is not a layer group of "
                f"{type(self.pipeline).__name__}; choose one of (parameters): {sizes}"
            )
        return groups[name]

    def parameter_count(self, names: Sequence[str]) -> int:
        """How many numbers the named parameters hold."""
        parameters = dict(self.denoiser.named_parameters())
        return sum(parameters[name].numel() for name in names)

    def weights(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The named parameters, detached but not copied."""
        parameters = dict(self.denoiser.named_parameters())
        return {name: parameters[name].detach() for name in names}

    @contextmanager
    def shifted(self, delta: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside the block the denoiser's weights are θ₀ + delta; afterwards exactly θ₀."""
        base = {name: value.clone() for name, value in self.weights(list(delta)).items()}
        weights = self.weights(list(delta))
        try:
            for name, change in delta.items():
                weights[name].copy_(base[name] + change.to(base[name].device))
            yield
        finally:
            for name, value in base.items():
                weights[name].copy_(value)
