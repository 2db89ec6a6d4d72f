"""The melody embedding: hears pitch classes, in order."""

import numpy as np
import pytest
from renditions import RATE_HZ, WORKS, rendition

from tda_dagster.embedding.melody import FRAME_S, FRAMES, frame_seconds, melody


def tones(pitches: list[int], seconds: float) -> np.ndarray:
    """Sinusoids of MIDI pitches, one after the other."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    hertz = [440 * 2 ** ((pitch - 69) / 12) for pitch in pitches]
    parts = [np.hanning(len(time)) ** 0.25 * np.sin(2 * np.pi * f * time) for f in hertz]
    return np.concatenate(parts).astype(np.float32)


def test_a_scale_climbs_through_the_pitch_classes() -> None:
    pitches = list(range(60, 72))
    sequence = melody(tones(pitches, 10 * FRAME_S), RATE_HZ)
    middles = sequence[:, 5:120:10]
    assert middles.argmax(axis=0).tolist() == [pitch % 12 for pitch in pitches]


@pytest.mark.parametrize("octave", [3, 5, 6])
def test_octaves_are_the_same(octave: int) -> None:
    here, there = (melody(tones([12 * o + 9], 2), RATE_HZ)[:, 10] for o in (4, octave))
    assert here.argmax() == there.argmax() == 9


def test_columns_are_as_long_as_their_frames_and_centred() -> None:
    audio = rendition(WORKS[0])
    sequence = melody(audio, RATE_HZ)
    lengths = np.linalg.norm(sequence, axis=0)
    used = -(-len(audio) // round(FRAME_S * RATE_HZ))
    assert (lengths[used:] == 0).all()
    assert (lengths[:used] > 0).mean() > 0.9
    np.testing.assert_allclose(lengths[lengths > 0], FRAME_S, rtol=1e-5)
    np.testing.assert_allclose(sequence.sum(axis=0), 0, atol=1e-6)


@pytest.mark.parametrize(("repeats", "seconds"), [(1, FRAME_S), (4, 2 * FRAME_S), (8, 4 * FRAME_S)])
def test_long_pieces_have_longer_frames(repeats: int, seconds: float) -> None:
    audio = np.tile(tones([60, 64, 67, 71], 3), repeats)
    sequence = melody(audio, RATE_HZ)
    assert sequence.shape == (12, FRAMES)
    assert frame_seconds(sequence) == pytest.approx(seconds)
    per_tone = 3 / seconds
    for index, pitch in enumerate([60, 64, 67, 71] * repeats):
        assert sequence[:, int((index + 0.5) * per_tone)].argmax() == pitch % 12


@pytest.mark.parametrize("semitones", [-5, -1, 2, 4])
def test_another_key_is_a_rotation(semitones: int) -> None:
    work = WORKS[1]
    here = melody(rendition(work), RATE_HZ)
    there = melody(rendition(work, transposition=semitones), RATE_HZ)
    agreement = [float((np.roll(here, k, axis=0) * there).sum()) for k in range(12)]
    assert int(np.argmax(agreement)) == semitones % 12
    assert max(agreement) > 0.8 * (here**2).sum()


def test_silence_has_no_melody() -> None:
    assert not melody(np.zeros(5 * RATE_HZ, np.float32), RATE_HZ).any()
    gap = np.concatenate([tones([69], 2), np.zeros(3 * RATE_HZ, np.float32), tones([69], 2)])
    assert not melody(gap, RATE_HZ)[:, 28:45].any()
    assert frame_seconds(melody(np.zeros(100, np.float32), RATE_HZ)) == 0
