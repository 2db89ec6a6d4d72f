"""How the shipped autoencoder was trained.

    python -m tda_dagster.diffusion.autoencoder.training

renders the reference study, trains on its tracks without the held-out ones (the split that the
study uses by default), and writes half-precision weights into `weights/`. It is not part of the
main job: the autoencoder is an input of attribution, not its subject.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from tda_dagster.corpus import SegmentSpec, decode_audio, index_dataset, read_manifest
from tda_dagster.corpus.reference import render_reference_study
from tda_dagster.diffusion.autoencoder.spectral import SpectralAutoencoder
from tda_dagster.settings import DatasetSettings, TrainingSettings


@dataclass(frozen=True)
class AutoencoderTraining:
    """Settings of one training; `crop_frames` is the length of an example in latent frames."""

    steps: int = 3000
    batch_size: int = 12
    crop_frames: int = 40
    learning_rate: float = 2e-3
    latent_noise: float = 0.1
    seed: int = 0


def train_autoencoder(
    tracks: Sequence[np.ndarray], settings: AutoencoderTraining, console: Console
) -> SpectralAutoencoder:
    """Train on mono tracks, float32 arrays at 16 kHz in [-1, 1].

    The loss is the L1 distance of log-magnitudes plus the relative L2 distance of magnitudes
    (spectral convergence, arXiv:1910.11480, eq. 4), so that both faint and loud partials count.
    Noise of `latent_noise` standard deviations on the latents makes the decoder smooth.
    """
    torch.manual_seed(settings.seed)
    model: SpectralAutoencoder = SpectralAutoencoder()
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.no_grad():
        spectra = [model.log_magnitudes(torch.from_numpy(t)[None, None])[0] for t in tracks]
        model.spectrum_mean.copy_(torch.cat(spectra, dim=1).mean(dim=1, keepdim=True))
    length = settings.crop_frames * model.config.stack
    usable = [s for s in spectra if s.shape[1] > length]
    weights = torch.tensor([float(s.shape[1]) for s in usable])
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / 100) * _cosine(s / settings.steps)
    )
    for step in range(settings.steps):
        target = _crops(usable, weights, length, settings.batch_size, generator)
        latents = model.bottleneck(target)
        deviation = latents.detach().std(dim=(0, 2), keepdim=True)
        noise = torch.randn(latents.shape, generator=generator) * deviation
        estimate = model.spectrum(latents + settings.latent_noise * noise)
        magnitude, wanted = torch.exp(estimate), torch.exp(target)
        convergence = torch.linalg.norm(magnitude - wanted) / torch.linalg.norm(wanted)
        distance = (estimate - target).abs().mean()
        optimizer.zero_grad()
        (distance + convergence).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            console.print(
                f"step {step + 1}/{settings.steps}: log-magnitude L1 {distance.item():.4f}, "
                f"spectral convergence {convergence.item():.4f}"
            )
    with torch.no_grad():
        latents = torch.cat([model.bottleneck(s[None])[0] for s in spectra], dim=1)
        model.latent_mean.copy_(latents.mean(dim=1, keepdim=True))
        model.latent_std.copy_(latents.std(dim=1, keepdim=True))
    model.eval()
    return model


def _cosine(done: float) -> float:
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _crops(
    spectra: Sequence[Tensor], weights: Tensor, length: int, count: int, generator: torch.Generator
) -> Tensor:
    """Random crops [count, bins, length]."""
    crops = []
    for index in torch.multinomial(weights, count, replacement=True, generator=generator).tolist():
        last = spectra[index].shape[1] - length
        start = int(torch.randint(0, last + 1, (), generator=generator))
        crops.append(spectra[index][:, start : start + length])
    return torch.stack(crops)


def save_autoencoder(model: SpectralAutoencoder, folder: Path) -> None:
    """Write the diffusers directory: config.json and half-precision safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)
    state = {n: t.to(torch.float16).contiguous() for n, t in model.state_dict().items()}
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file(state, path, metadata={"format": "pt"})


def training_tracks(folder: Path) -> list[np.ndarray]:
    """The reference study's training tracks at 16 kHz, rendered into `folder`."""
    dataset = DatasetSettings()
    model = SpectralAutoencoder()
    manifest = render_reference_study(
        folder, seed=dataset.reference.seed, sample_rate_hz=dataset.reference.sample_rate_hz
    )
    spec = SegmentSpec(
        sample_rate_hz=model.sampling_rate,
        channels=1,
        samples=TrainingSettings().frames * model.hop_length,
        hop_length=model.hop_length,
        min_seconds=dataset.min_seconds,
        silence_dbfs=dataset.silence_dbfs,
    )
    index = index_dataset(
        read_manifest(str(manifest)),
        spec,
        heldout_fraction=dataset.heldout_fraction,
        seed=dataset.seed,
        max_reject_fraction=0.0,
    )
    audio = index.tracks.filter(split="train")["audio"].to_list()
    return [decode_audio(str(folder / name), spec)[0] for name in audio]


def main() -> None:
    """Train and write the weights that ship."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--steps", type=int, default=AutoencoderTraining.steps)
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        tracks = training_tracks(Path(folder))
    console.print(f"{len(tracks)} tracks, {sum(map(len, tracks)) / 16_000:.0f} s of audio")
    save_autoencoder(
        train_autoencoder(tracks, AutoencoderTraining(steps=arguments.steps), console),
        arguments.out,
    )


if __name__ == "__main__":
    main()
