"""Autoencoders: the reference study's own with its shipped weights, and anybody's.

The shipped weights were made by `python -m tda_dagster.diffusion.autoencoder.training`.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor

from tda_dagster.diffusion.audio_format import AudioFormat
from tda_dagster.diffusion.autoencoder.spectral import SpectralAutoencoder
from tda_dagster.diffusion.model import ModelError
from tda_dagster.diffusion.modules import empty_module, open_module, require_fit
from tda_dagster.diffusion.weights import find_weights, read_json

__all__ = [
    "AUTOENCODERS",
    "AudioFormat",
    "SpectralAutoencoder",
    "encode",
    "open_autoencoder",
    "shipped_weights",
    "shipped_weights_digest",
]

AUTOENCODERS = {kind.__name__: kind for kind in (AutoencoderOobleck, SpectralAutoencoder)}
"""The classes of autoencoders that are opened, by name."""

WEIGHTS = "weights"


def open_autoencoder(folder: Path) -> Any:
    """The autoencoder of a diffusers directory, in float32 and frozen.

    Raises ModelError when it is of a class that is not known, or its weights are not complete.
    """
    try:
        name = read_json(folder / "config.json").get("_class_name")
        if name not in AUTOENCODERS:
            raise ModelError(
                f"config.json names the class {str(name)[:80]}; supported: "
                f"{', '.join(AUTOENCODERS)}"
            )
        weights = find_weights(folder, "diffusers")
        require_fit(weights.tensors, empty_module(AUTOENCODERS[name], folder))
        return open_module(AUTOENCODERS[name], folder, weights)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error


def shipped_weights(folder: Path) -> None:
    """Copy the diffusers directory of the reference study's autoencoder into `folder`."""
    with as_file(files(__name__) / WEIGHTS) as source:
        for file in sorted(Path(source).iterdir()):
            (folder / file.name).write_bytes(file.read_bytes())


def shipped_weights_digest() -> str:
    """sha256 over the shipped files, hex."""
    with tempfile.TemporaryDirectory() as folder:
        shipped_weights(Path(folder))
        digest = hashlib.sha256()
        for file in sorted(Path(folder).iterdir()):
            digest.update(file.name.encode() + b"\x1f" + file.read_bytes())
    return digest.hexdigest()


@torch.no_grad()
def encode(autoencoder: Any, audio: Sequence[np.ndarray], batch_size: int = 8) -> Tensor:
    """Latents float32 [n, C, T] of segments, each float32 [channels, samples]."""
    batches = [
        torch.from_numpy(np.stack(audio[start : start + batch_size]))
        for start in range(0, len(audio), batch_size)
    ]
    return torch.cat([autoencoder.encode(b).latent_dist.mode().float() for b in batches])
