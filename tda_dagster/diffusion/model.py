"""The interface between attribution and a text-to-music model, and the one way to open a model.

What belongs here: what every diffusion pipeline must offer so that its music can be attributed
(`MusicModel`), and `open_model`, which finds the adapter for a pipeline directory. What a given
pipeline class does differently lives in its adapter, one file per class.
"""

import hashlib
import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import fsspec
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

# diffusers loads components of other libraries only when those are imported already.
from tda_dagster.diffusion.autoencoder import spectral  # noqa: F401
from tda_dagster.diffusion.latents import Conditioning
from tda_dagster.errors import TdaError


class ModelError(TdaError):
    """A model that cannot be opened or asked for something it does not have."""


class MusicModel(ABC):
    """A diffusers pipeline seen as an encoder, a conditioner, a denoiser and a generator.

    It is its own `Denoiser`: calling it predicts velocities.
    """

    pipeline: DiffusionPipeline

    sampling_rate: int
    """Sampling rate of the audio, Hz."""
    audio_channels: int
    hop_length: int
    """Audio samples per latent frame."""
    latent_shape: tuple[int, int]
    """(channels, frames) of one segment's latents."""

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


def open_model(uri: str | Path, device: str = "cpu") -> MusicModel:
    """Open a diffusers pipeline directory (local, any fsspec URL, or a hub id).

    Raises ModelError when it is not a pipeline, of a class without an adapter, or incomplete.
    """
    with local_pipeline(uri) as folder:
        adapter = _adapter(uri, folder)
        try:
            with quiet_loading():
                pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{uri}: the pipeline cannot be loaded, save it again: {error}"
            ) from error
    return adapter(pipeline.to(device))


def _adapter(uri: str | Path, folder: Path) -> Callable[[DiffusionPipeline], MusicModel]:
    """What turns the pipeline in a local folder into a `MusicModel`."""
    from tda_dagster.diffusion.stable_audio import StableAudioModel

    adapters = {"StableAudioPipeline": StableAudioModel}
    try:
        name = DiffusionPipeline.load_config(folder).get("_class_name")
    except OSError as error:
        raise ModelError(f"{uri}: model_index.json cannot be read: {error}") from error
    if name not in adapters:
        raise ModelError(
            f"{uri}: a {name} cannot be attributed yet; supported: {', '.join(adapters)}"
        )
    return adapters[name]


def copy_pipeline(uri: str | Path, folder: Path) -> None:
    """Copy a pipeline directory from wherever it is into `folder`."""
    with local_pipeline(uri) as source:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def autoencoder_of(uri: str | Path, folder: Path) -> int:
    """Copy a pipeline's autoencoder directory into `folder`; returns the latent frames of one of
    its segments."""
    with local_pipeline(uri) as source:
        _adapter(uri, source)  # the transformer is read below as this class lays it out
        if not (source / "vae" / "config.json").is_file():
            raise ModelError(f"{uri}: the pipeline has no autoencoder (vae/config.json)")
        shutil.copytree(source / "vae", folder, dirs_exist_ok=True)
        transformer = json.loads((source / "transformer" / "config.json").read_text())
    return int(transformer["sample_size"])


def pipeline_stamp(uri: str | Path) -> str:
    """sha256 over the names, sizes and times (or etags) of a pipeline directory's files: changes
    when the pipeline does, without reading it. A hub id stands for itself."""
    location = str(uri)
    if "://" not in location and not Path(location).exists():
        return hashlib.sha256(location.encode()).hexdigest()
    filesystem, path = fsspec.url_to_fs(location)
    stamp = hashlib.sha256()
    for name, info in sorted(filesystem.find(path, detail=True).items()):
        known = {k: info.get(k) for k in ("size", "mtime", "ETag", "LastModified")}
        stamp.update(f"{name.removeprefix(path)}\x1f{known}\n".encode())
    return stamp.hexdigest()


@contextmanager
def local_pipeline(uri: str | Path) -> Iterator[Path]:
    """The pipeline directory as a local one, for the time of the block."""
    location = str(uri)
    with tempfile.TemporaryDirectory() as scratch:
        if "://" in location:
            try:
                filesystem, path = fsspec.url_to_fs(location)
                filesystem.get(path.rstrip("/") + "/", scratch, recursive=True)
            except (OSError, ValueError, ImportError) as error:
                raise ModelError(f"{uri}: the pipeline cannot be fetched: {error}") from error
            location = scratch
        elif not Path(location).exists():
            try:
                location = str(DiffusionPipeline.download(location))
            except Exception as error:  # the hub client raises many kinds
                raise ModelError(
                    f"{uri}: there is no such folder, and the hub does not give it: {error}"
                ) from error
        if not (Path(location) / "model_index.json").is_file():
            raise ModelError(
                f"{uri}: not a diffusers pipeline directory: it has no model_index.json"
            )
        yield Path(location)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Inside the block, diffusers and transformers load without progress bars or chatter."""
    shown = diffusers_logging.is_progress_bar_enabled()
    level = diffusers_logging.get_verbosity()
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
        if shown:
            diffusers_logging.enable_progress_bar()
