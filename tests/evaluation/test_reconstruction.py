"""Figures of audio against their formulas."""

import numpy as np
import pytest

from tda_dagster.evaluation.reconstruction import compare, log_mel, si_sdr

RATE = 16_000


@pytest.fixture
def sound() -> np.ndarray:
    generator = np.random.default_rng(0)
    made: np.ndarray = (0.1 * generator.standard_normal(8000)).astype(np.float32)
    return made


@pytest.fixture
def orthogonal(sound: np.ndarray) -> np.ndarray:
    """Noise that has nothing in common with the sound, in float64."""
    reference = sound.astype(np.float64)
    other = np.random.default_rng(1).standard_normal(8000)
    rest: np.ndarray = other - reference * (other @ reference) / (reference @ reference)
    return rest / np.linalg.norm(rest) * np.linalg.norm(reference)


@pytest.mark.parametrize("scale", [1.0, 0.01, 30.0, -2.0])
def test_a_scaled_copy_is_without_distortion(sound: np.ndarray, scale: float) -> None:
    assert si_sdr(sound, scale * sound.astype(np.float64)) > 90


@pytest.mark.parametrize("decibels", [40.0, 10.0, 0.0, -20.0])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_orthogonal_noise_gives_its_own_level(
    sound: np.ndarray, orthogonal: np.ndarray, decibels: float, scale: float
) -> None:
    estimate = scale * (sound + 10 ** (-decibels / 20) * orthogonal)
    assert si_sdr(sound, estimate) == pytest.approx(decibels, abs=1e-6)


def test_nothing_in_common_is_very_low(sound: np.ndarray, orthogonal: np.ndarray) -> None:
    assert si_sdr(sound, orthogonal) < -100
    assert si_sdr(sound, np.zeros_like(sound)) < -100
    assert si_sdr(np.zeros_like(sound), sound) < -100


def test_identical_sounds_have_no_distance(sound: np.ndarray) -> None:
    assert compare(sound, sound.copy(), RATE).log_mel_db == 0
    other = compare(sound, np.roll(sound, 3000), RATE)
    assert other.log_mel_db > 0
    assert other == compare(sound, np.roll(sound, 3000), RATE)


def test_a_gain_shifts_the_levels(sound: np.ndarray) -> None:
    shift = log_mel(100 * sound, RATE) - log_mel(50 * sound, RATE)
    # 6 dB, less what the floor takes.
    assert float(np.median(shift)) == pytest.approx(20 * np.log10(2), abs=0.02)
    assert float(shift.max()) <= 20 * np.log10(2) + 1e-9


def test_silence_is_at_the_floor() -> None:
    levels = log_mel(np.zeros(4096), RATE)
    assert levels.shape[0] == 80
    np.testing.assert_allclose(levels, -60)


@pytest.mark.parametrize("hertz", [200.0, 440.0, 1000.0, 5000.0])
def test_a_sinusoid_is_loudest_in_its_band(hertz: float) -> None:
    time = np.arange(RATE) / RATE
    levels = log_mel(np.sin(2 * np.pi * hertz * time), RATE).mean(axis=1)
    edges = np.linspace(*(2595 * np.log10(1 + f / 700) for f in (40, RATE / 2)), 82)
    centres = 700 * (10 ** (edges[1:-1] / 2595) - 1)
    assert abs(int(levels.argmax()) - int(np.abs(centres - hertz).argmin())) <= 1
    assert -20 < levels.max() <= 0.1  # the wider the band, the more a single line is diluted


def test_sounds_shorter_than_a_window_are_compared(sound: np.ndarray) -> None:
    assert log_mel(sound[:10], RATE).shape == (80, 1)
    assert compare(sound[:10], sound[:10], RATE).log_mel_db == 0


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000])
def test_every_band_hears_something(sound: np.ndarray, rate: int) -> None:
    assert bool(np.isfinite(log_mel(sound, rate)).all())
    assert float(log_mel(sound, rate).min()) > -60
