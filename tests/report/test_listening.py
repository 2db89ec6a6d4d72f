"""Listening copies: whole, undistorted, the same bytes every time."""

import io

import numpy as np
import pytest
import soundfile

from tda_dagster.report.contents import Sound
from tda_dagster.report.listening import MP3_RATES, mp3


def tone(seconds: float, rate: int, amplitude: float = 0.5) -> Sound:
    time = np.arange(int(seconds * rate)) / rate
    return Sound((amplitude * np.sin(2 * np.pi * 440 * time)).astype(np.float32), rate)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_a_standard_rate_is_kept_to_the_sample(rate: int) -> None:
    sound = tone(0.5, rate)
    decoded, found = soundfile.read(io.BytesIO(mp3(sound)))
    assert (found, len(decoded)) == (rate, len(sound.samples))
    assert np.corrcoef(decoded, sound.samples)[0, 1] > 0.99


@pytest.mark.parametrize("rate", [4_000, 20_000, 96_000])
def test_another_rate_becomes_one_that_mp3_knows(rate: int) -> None:
    decoded, found = soundfile.read(io.BytesIO(mp3(tone(0.5, rate))))
    assert found in MP3_RATES
    assert len(decoded) / found == pytest.approx(0.5, abs=0.01)
    assert np.argmax(np.abs(np.fft.rfft(decoded))) * found / len(decoded) == pytest.approx(440, 5)


def test_same_sound_same_bytes_however_long() -> None:
    sound = tone(90.0, 22_050)
    encoded = mp3(sound)
    assert encoded == mp3(sound)
    assert soundfile.info(io.BytesIO(encoded)).duration == pytest.approx(90.0)


@pytest.mark.parametrize("samples", [1, 100, 1152])
def test_the_shortest_sounds_have_a_copy(samples: int) -> None:
    decoded, _ = soundfile.read(io.BytesIO(mp3(Sound(np.full(samples, 0.1, np.float32), 16_000))))
    assert len(decoded) >= samples


def test_too_loud_is_turned_down_not_clipped() -> None:
    decoded, _ = soundfile.read(io.BytesIO(mp3(tone(0.5, 16_000, amplitude=3.0))))
    middle = decoded[2000:-2000]
    assert np.abs(middle).max() == pytest.approx(1.0, abs=0.05)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum[3 * int(np.argmax(spectrum))] < 0.01 * spectrum.max()  # no third harmonic
