"""What a person wants to know of a pipeline before working with it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.opening import open_contents
from tda_dagster.diffusion.opening.contents import Contents, examine, naming
from tda_dagster.diffusion.opening.fetching import local_pipeline
from tda_dagster.diffusion.opening.proof import denoising_error

_CHORD_FRAMES = 1024
_BYTES = 4  # a number in float32, in which everything is computed


@dataclass(frozen=True)
class Component:
    """A component of a pipeline. `stored_as` lists the dtypes in its files, whose names are
    `files` and whose bytes are `size_bytes`; the scheduler and the tokenizer have no parameters."""

    name: str
    kind: str
    parameters: int
    stored_as: tuple[str, ...]
    files: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True)
class Inspection:
    """A proven pipeline described.

    `groups` are the numbers of parameters of each layer group; `weights_bytes` is the memory of all
    weights in float32. Of a layer group, Fisher information and the change that a query makes take
    as much as its weights. `chord_error` is `denoising_error` of a chord: below 1 for a model that
    is trained on anything like it.
    """

    components: tuple[Component, ...]
    objective: str
    sigma_range: tuple[float, float]
    sampling_rate: int
    audio_channels: int
    hop_length: int
    latent_shape: tuple[int, int]
    window_seconds: float
    caption_tokens: int
    vocabulary: int
    groups: Mapping[str, int]
    weights_bytes: int
    chord_error: float
    notes: tuple[str, ...]

    def group_bytes(self, name: str) -> int:
        """Bytes of the Fisher information of a layer group, and of a query's change of it."""
        return _BYTES * self.groups[name]


def inspect_pipeline(uri: str | Path) -> Inspection:
    """Prove a pipeline and describe it; raises ModelError as `open_model` does."""
    with local_pipeline(uri) as folder, naming(uri):
        contents = examine(folder)
        model = open_contents(contents)
        components = tuple(_components(contents, model))
        config, tokenizer = contents.scheduler.config, model.pipeline.tokenizer
        return Inspection(
            components=components,
            objective=model.objective,
            sigma_range=(float(config.sigma_min), float(config.sigma_max)),
            sampling_rate=model.sampling_rate,
            audio_channels=model.audio_channels,
            hop_length=model.hop_length,
            latent_shape=model.latent_shape,
            window_seconds=model.window_seconds,
            caption_tokens=int(tokenizer.model_max_length),
            vocabulary=len(tokenizer),
            groups={
                name: model.parameter_count(names) for name, names in model.layer_groups().items()
            },
            weights_bytes=_BYTES * sum(c.parameters for c in components),
            chord_error=denoising_error(model, _chord(model)),
            notes=contents.notes,
        )


def _components(contents: Contents, model: MusicModel) -> list[Component]:
    found = []
    for name, module in contents.modules.items():
        opened, weights = getattr(model.pipeline, name), module.weights
        found.append(
            Component(
                name=name,
                kind=type(opened).__name__,
                parameters=sum(p.numel() for p in opened.parameters()),
                stored_as=tuple(sorted({header.dtype for header in weights.tensors.values()})),
                files=tuple(file.name for file in weights.files),
                size_bytes=sum(file.stat().st_size for file in weights.files),
            )
        )
    for name in ("tokenizer", "scheduler"):
        opened = getattr(model.pipeline, name)
        files = contents.text_files(name)
        found.append(
            Component(
                name=name,
                kind=type(opened).__name__,
                parameters=0,
                stored_as=(),
                files=tuple(file.name for file in files),
                size_bytes=sum(file.stat().st_size for file in files),
            )
        )
    return found


def _chord(model: MusicModel) -> LatentSegments:
    """The latents of a major chord of decaying tones that is struck once a second."""
    frames = min(model.latent_shape[1], _CHORD_FRAMES)
    time = torch.arange(frames * model.hop_length, dtype=torch.float64) / model.sampling_rate
    sound = torch.zeros_like(time)
    for pitch in (261.63, 329.63, 392.0):
        for partial in range(1, 7):
            if pitch * partial < model.sampling_rate / 2:
                sound += 0.1 / partial * torch.sin(2 * math.pi * pitch * partial * time)
    sound *= torch.exp(-1.5 * (time % 1.0))
    audio = sound.float().expand(1, model.audio_channels, -1)
    return LatentSegments(
        segment_ids=("chord",),
        latents=model.encode(audio).cpu(),
        valid_frames=torch.tensor([frames]),
        captions=("a major chord on a piano",),
        seconds_start=(0.0,),
        seconds_total=(model.window_seconds,),
    )
