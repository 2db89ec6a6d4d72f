"""The timbre embedding: hears instruments, not tunes."""

import librosa
import numpy as np
import pytest
import soxr
from renditions import RATE_HZ, WORKS, rendition

from tda_dagster.embedding.timbre import timbre


def test_it_is_mean_and_deviation_of_the_cepstrum_of_log_mel_bands() -> None:
    audio = rendition(WORKS[0]).astype(np.float64)
    audio /= np.sqrt(np.mean(audio**2))
    power = np.abs(librosa.stft(audio, n_fft=2048, hop_length=512)) ** 2
    mel = librosa.filters.mel(sr=RATE_HZ, n_fft=2048, n_mels=64) @ power
    decibels = 10 * np.log10(np.maximum(mel, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80)
    order, band = np.arange(20)[:, None], np.arange(64)[None]
    basis = np.sqrt(2 / 64) * np.cos(np.pi * order * (2 * band + 1) / 128)
    basis[0] /= np.sqrt(2)
    cepstrum = basis @ decibels
    expected = np.concatenate([cepstrum.mean(axis=1), cepstrum.std(axis=1)])
    np.testing.assert_allclose(timbre(rendition(WORKS[0]), RATE_HZ), expected, rtol=1e-3, atol=0.05)


def test_the_same_sound_at_another_rate_is_the_same() -> None:
    audio = rendition(WORKS[1])
    resampled = soxr.resample(audio, RATE_HZ, 44_100)
    here, there = timbre(audio, RATE_HZ), timbre(resampled, 44_100)
    assert np.linalg.norm(here - there) < 0.1 * np.linalg.norm(here)


@pytest.mark.parametrize("work", [WORKS[1], WORKS[3]])
def test_players_are_told_apart_rather_than_keys(work: str) -> None:
    original = timbre(rendition(work), RATE_HZ)
    other_key = timbre(rendition(work, transposition=1), RATE_HZ)
    other_players = timbre(rendition(work, ensemble=1), RATE_HZ)
    nearer, farther = (np.linalg.norm(original - other) for other in (other_key, other_players))
    assert 2 * nearer < farther
