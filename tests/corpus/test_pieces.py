"""Imported pieces: their windows, and what cannot be one."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tda_dagster.corpus import AudioError, SegmentSpec
from tda_dagster.corpus.pieces import PieceError, open_piece

SPEC = SegmentSpec(sample_rate_hz=1000, channels=1, samples=1000, hop_length=100, min_seconds=0.3)


def write(path: Path, samples: np.ndarray, rate: int = 1000) -> str:
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return str(path)


def noise(seconds: float, rate: int = 1000) -> np.ndarray:
    return np.asarray(0.3 * np.random.default_rng(0).standard_normal(round(rate * seconds)))


@pytest.mark.parametrize(
    ("seconds", "windows", "left_out"),
    [(0.3, 1, 0), (0.999, 1, 0), (1.0, 1, 0), (1.29, 1, 0.29), (1.3, 2, 0), (5.0, 5, 0)],
)
def test_windows_follow_one_another_as_those_of_tracks(
    tmp_path: Path, seconds: float, windows: int, left_out: float
) -> None:
    samples = noise(seconds)
    piece = open_piece(write(tmp_path / "a.wav", samples), SPEC)
    found = list(piece.windows())
    assert [window.start_s for window in found] == list(range(windows))
    assert piece.seconds == pytest.approx(seconds)
    assert piece.left_out_s == pytest.approx(left_out)
    music = [w.samples[:, : w.window.valid_samples] for w in found]
    joined = np.concatenate(music, axis=1)[0]
    assert np.array_equal(joined, samples[: len(joined)].astype(np.float32))
    assert all(not w.samples[:, w.window.valid_samples :].any() for w in found)


def test_a_window_is_known_by_its_samples_not_by_its_file(tmp_path: Path) -> None:
    loop = np.tile(noise(1.0), 3)
    integers = (2**15 * loop).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", integers, 1000)
    soundfile.write(tmp_path / "b.flac", integers, 1000)
    one, other = (
        [w.sha256 for w in open_piece(str(tmp_path / name), SPEC).windows()]
        for name in ("a.wav", "b.flac")
    )
    assert one == other
    assert len(set(one)) == 1


def test_only_windows_of_silence_are_silent(tmp_path: Path) -> None:
    samples = np.concatenate([np.zeros(1000), noise(1), 1e-4 * np.ones(1000), noise(0.5)])
    piece = open_piece(write(tmp_path / "a.wav", samples), SPEC)
    assert [window.silent for window in piece.windows()] == [True, False, True, False]


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        (noise(0.29), "shortest piece is 0.3 s"),
        (np.zeros(5000), "silent"),
        (np.full(5000, 9e-4), "silent: its peak stays below -60 dBFS"),
    ],
)
def test_what_no_track_could_be_is_no_piece(tmp_path: Path, samples: np.ndarray, told: str) -> None:
    with pytest.raises(PieceError, match=told) as error:
        open_piece(write(tmp_path / "a.wav", samples), SPEC)
    assert "a.wav" in str(error.value)


def test_samples_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    samples = noise(2)
    samples[1500] = np.inf
    with pytest.raises(AudioError):
        open_piece(write(tmp_path / "a.wav", samples), SPEC)
