"""Tiny but genuine Stable Audio pipelines and segments for them, shared by all tests.

Imports of torch and diffusers stay inside the fixtures: most tests of the store and the corpus
should not wait for them.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = "1"

if TYPE_CHECKING:
    from diffusers import StableAudioPipeline

    from tda_dagster.diffusion.latents import LatentSegments
    from tda_dagster.diffusion.model import MusicModel
    from tda_dagster.diffusion.reference import ReferenceTraining

FRAMES = 16
CHANNELS = 4
SAMPLING_RATE = 1000
CAPTIONS = (
    "warm slow piano in a minor key",
    "a fast violin dance",
    "solo flute, gentle and slow",
    "brass band in a major key",
    "a slow organ prelude",
)

MakePipeline = Callable[..., "StableAudioPipeline"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_training() -> "ReferenceTraining":
    """Two layers of two heads of eight dimensions."""
    from tda_dagster.diffusion.reference import ReferenceTraining

    return ReferenceTraining(
        steps=12,
        batch_size=4,
        learning_rate=5e-3,
        warmup_steps=3,
        caption_dropout=0.1,
        ema_decay=0.9,
        layers=2,
        heads=2,
        head_dim=8,
        seed=0,
    )


@pytest.fixture(scope="session")
def make_pipeline(tiny_training: "ReferenceTraining") -> MakePipeline:
    """`make_pipeline(kind, training)`: a new pipeline around the project's own autoencoder
    ("spectral", mono) or around diffusers' ("oobleck", stereo), always the same weights."""
    import torch
    from diffusers import AutoencoderOobleck

    from tda_dagster.diffusion.autoencoder import SpectralAutoencoder
    from tda_dagster.diffusion.reference import build_pipeline

    def make(
        kind: str = "spectral", training: "ReferenceTraining" = tiny_training
    ) -> "StableAudioPipeline":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if kind == "spectral":
                autoencoder = SpectralAutoencoder(
                    sampling_rate=SAMPLING_RATE,
                    fft_size=64,
                    frame_hop=16,
                    stack=2,
                    latent_channels=CHANNELS,
                    width=8,
                    phase_iterations=3,
                )
            else:
                autoencoder = AutoencoderOobleck(
                    encoder_hidden_size=2 * CHANNELS,
                    downsampling_ratios=[2, 4],
                    channel_multiples=[1, 2],
                    decoder_channels=8,
                    decoder_input_channels=CHANNELS,
                    audio_channels=2,
                    sampling_rate=SAMPLING_RATE,
                )
        return build_pipeline(autoencoder, CAPTIONS, FRAMES, training)

    return make


@pytest.fixture(scope="session")
def save_pipeline(make_pipeline: MakePipeline) -> Callable[[str, Path], Path]:
    """Saves a pipeline whose denoiser has no weights of zero: fresh ones are the identity, and
    the gradients of most of their layers vanish."""
    import torch

    def save(kind: str, folder: Path) -> Path:
        pipeline = make_pipeline(kind)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in pipeline.transformer.parameters():
                if not parameter.any():
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        pipeline.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def spectral_folder(
    save_pipeline: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return save_pipeline("spectral", tmp_path_factory.mktemp("spectral"))


@pytest.fixture(scope="session")
def oobleck_folder(
    save_pipeline: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return save_pipeline("oobleck", tmp_path_factory.mktemp("oobleck"))


@pytest.fixture(scope="module")
def model(spectral_folder: Path) -> "MusicModel":
    from tda_dagster.diffusion.opening import open_model

    return open_model(spectral_folder)


@pytest.fixture(scope="session")
def make_segments() -> Callable[..., "LatentSegments"]:
    """`make_segments(count, seed)`: segments with captions, places, and padding of their own.
    The padding is not silent, so that whatever looks at it shows."""
    import torch

    from tda_dagster.diffusion.latents import LatentSegments

    def make(count: int = 7, seed: int = 0) -> LatentSegments:
        generator = torch.Generator().manual_seed(seed)
        return LatentSegments(
            segment_ids=tuple(f"track-{index // 2}:{index % 2:04d}" for index in range(count)),
            latents=torch.randn((count, CHANNELS, FRAMES), generator=generator),
            valid_frames=torch.tensor([FRAMES - 5 * (index % 3) for index in range(count)]),
            captions=tuple(CAPTIONS[index // 2 % len(CAPTIONS)] for index in range(count)),
            seconds_start=tuple(0.5 * (index % 2) for index in range(count)),
            seconds_total=tuple(1.0 + index // 2 for index in range(count)),
        )

    return make


@pytest.fixture(scope="session")
def segments(make_segments: Callable[..., "LatentSegments"]) -> "LatentSegments":
    return make_segments()
