"""The autoencoders: shapes, levels, and what the shipped weights are good for."""

import json
import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tda_dagster.diffusion.autoencoder import (
    AudioFormat,
    SpectralAutoencoder,
    encode,
    open_autoencoder,
    shipped_weights,
)
from tda_dagster.diffusion.autoencoder.spectral import FLOOR
from tda_dagster.evaluation.reconstruction import compare

WEIGHTS = files("tda_dagster.diffusion.autoencoder") / "weights"
needs_weights = pytest.mark.skipif(
    not (WEIGHTS / "diffusion_pytorch_model.safetensors").is_file(),
    reason="the autoencoder's weights are not here; make them with "
    "`python -m tda_dagster.diffusion.autoencoder.training`",
)


@pytest.fixture(scope="module")
def tiny() -> SpectralAutoencoder:
    torch.manual_seed(0)
    made: SpectralAutoencoder = SpectralAutoencoder(
        sampling_rate=1000,
        fft_size=64,
        frame_hop=16,
        stack=3,
        latent_channels=5,
        width=8,
        phase_iterations=4,
    )
    return made.eval().requires_grad_(False)  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=["spectral", "oobleck"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"{request.param}_folder")
    return found / "vae"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.5


@pytest.mark.parametrize("samples", [1, 47, 48, 49, 96, 247, 480])
def test_audio_of_any_length_becomes_whole_frames(tiny: SpectralAutoencoder, samples: int) -> None:
    assert tiny.hop_length == 48
    latents = tiny.encode(noise(2, 1, samples)).latent_dist.mode()
    frames = math.ceil(samples / 48)
    assert latents.shape == (2, 5, frames)
    audio = tiny.decode(latents).sample
    assert audio.shape == (2, 1, frames * 48)
    assert bool(audio.isfinite().all())


def test_missing_samples_are_silence(tiny: SpectralAutoencoder) -> None:
    short = noise(1, 1, 100)
    long = torch.nn.functional.pad(short, (0, 44))
    assert torch.equal(tiny.encode(short).latent_dist.mode(), tiny.encode(long).latent_dist.mode())


def test_levels_are_relative_to_a_full_scale_sinusoid(tiny: SpectralAutoencoder) -> None:
    time = torch.arange(480) / 1000
    sinusoid = torch.sin(2 * math.pi * 250 * time)  # 250 Hz is the 16th bin of 1000/64 Hz
    levels = tiny.log_magnitudes(sinusoid.view(1, 1, -1))[0]
    assert levels.shape == (33, 30)
    inner = levels[:, 3:-3]
    assert torch.equal(inner.argmax(dim=0), torch.full((24,), 16))
    torch.testing.assert_close(inner[16].exp() - FLOOR, torch.ones(24), rtol=1e-3, atol=0)
    silence = tiny.log_magnitudes(torch.zeros(1, 1, 96))
    torch.testing.assert_close(silence, torch.full_like(silence, math.log(FLOOR)))


@pytest.mark.parametrize("frame", [0, 1, 10, 29])
def test_a_click_is_heard_when_it_sounds(tiny: SpectralAutoencoder, frame: int) -> None:
    click = torch.zeros(1, 1, 480)
    click[0, 0, 16 * frame] = 1.0
    levels = tiny.log_magnitudes(click)[0].mean(dim=0)
    assert int(levels.argmax()) == frame


def test_decoding_does_not_depend_on_the_batch_or_the_time(tiny: SpectralAutoencoder) -> None:
    latents = tiny.encode(noise(3, 1, 480)).latent_dist.mode()
    together = tiny.decode(latents).sample
    assert torch.equal(tiny.decode(latents).sample, together)
    for row in range(3):
        alone = tiny.decode(latents[row : row + 1]).sample
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_encoding_does_not_depend_on_the_batch_size(folder: Path, batch_size: int) -> None:
    autoencoder = open_autoencoder(folder)
    channels = autoencoder.config.audio_channels
    audio = [row.numpy() for row in noise(5, channels, 16 * autoencoder.hop_length)]
    latents = encode(autoencoder, audio, batch_size)
    assert latents.shape == (5, 4, 16)
    assert latents.dtype == torch.float32
    assert not latents.requires_grad
    torch.testing.assert_close(latents, encode(autoencoder, audio), rtol=1e-4, atol=1e-5)


def test_an_opened_autoencoder_is_frozen(folder: Path) -> None:
    autoencoder = open_autoencoder(folder)
    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
    assert type(autoencoder).__name__ == name
    assert not autoencoder.training
    for parameter in autoencoder.parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.requires_grad


def test_an_audio_format_comes_back_as_it_was(tmp_path: Path) -> None:
    audio_format = AudioFormat(sampling_rate=16_000, audio_channels=1, hop_length=768, frames=125)
    audio_format.save(tmp_path / "audio_format.json")
    assert AudioFormat.load(tmp_path / "audio_format.json") == audio_format
    assert audio_format.samples == 96_000
    assert audio_format.seconds == 6.0


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> SpectralAutoencoder:
    folder = tmp_path_factory.mktemp("shipped")
    shipped_weights(folder)
    opened: SpectralAutoencoder = open_autoencoder(folder)
    return opened


def chord(sampling_rate: int, seconds: float) -> np.ndarray:
    """A C major chord of plucked notes, each with six partials."""
    time = np.arange(round(sampling_rate * seconds)) / sampling_rate
    notes = [
        amplitude / partial * np.sin(2 * np.pi * partial * pitch * time)
        for pitch, amplitude in ((261.63, 0.1), (329.63, 0.08), (392.0, 0.08))
        for partial in range(1, 7)
    ]
    sound: np.ndarray = (sum(notes) * np.exp(-1.5 * time)).astype(np.float32)
    return sound


@needs_weights
def test_the_shipped_weights_have_the_shipped_shape(shipped: SpectralAutoencoder) -> None:
    assert shipped.config.sampling_rate == 16_000
    latents = shipped.encode(noise(1, 1, 4 * shipped.hop_length)).latent_dist.mode()
    assert latents.shape == (1, shipped.config.latent_channels, 4)
    for value in shipped.state_dict().values():
        assert value.dtype == torch.float32
        assert bool(value.isfinite().all())


@needs_weights
def test_a_chord_survives_the_shipped_autoencoder(shipped: SpectralAutoencoder) -> None:
    original = chord(shipped.config.sampling_rate, 128 * shipped.hop_length / 16_000 / 2)
    latents = encode(shipped, [original[None]])
    with torch.no_grad():
        decoded = shipped.decode(latents).sample[0, 0].numpy()[: len(original)]
    found = compare(original, decoded, 16_000)
    silence = compare(original, np.zeros_like(original), 16_000)
    assert found.log_mel_db < 1.5
    assert found.log_mel_db < silence.log_mel_db / 2
