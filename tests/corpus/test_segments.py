"""Windows: consecutive, complete, and honest about what is padding."""

import hashlib
import math

import numpy as np
import pytest

from tda_dagster.corpus import SegmentSpec
from tda_dagster.corpus.segments import cut, segment_sha256, windows
from tda_dagster.errors import TdaError

SPEC = SegmentSpec(sample_rate_hz=1000, channels=1, samples=3000, hop_length=100, min_seconds=1.0)


@pytest.mark.parametrize(
    ("total", "valid"),
    [
        (0, []),
        (999, []),
        (1000, [1000]),
        (3000, [3000]),
        (3999, [3000]),
        (4000, [3000, 1000]),
        (6001, [3000, 3000]),
        (8950, [3000, 3000, 2950]),
    ],
)
def test_windows(total: int, valid: list[int]) -> None:
    found = windows(total, SPEC)
    assert [window.valid_samples for window in found] == valid
    assert [window.start for window in found] == [3000 * index for index in range(len(valid))]
    assert [window.segment_index for window in found] == list(range(len(valid)))
    for window in found:
        assert window.valid_frames == math.ceil(window.valid_samples / 100)


def test_a_cut_is_padded_and_does_not_hold_on_to_the_track() -> None:
    audio = np.arange(1, 4001, dtype=np.float32)[None]
    first, last = (cut(audio, window, SPEC) for window in windows(4000, SPEC))
    np.testing.assert_array_equal(first, audio[:, :3000])
    np.testing.assert_array_equal(last[:, :1000], audio[:, 3000:])
    assert last.shape == (1, 3000)
    assert not last[:, 1000:].any()
    assert not np.shares_memory(first, audio)


def test_the_hash_is_of_little_endian_float32() -> None:
    segment = np.array([[0.5, -1.0], [0.25, 0.0]], np.float32)
    pcm = bytes.fromhex("0000003f000080bf0000803e00000000")
    assert segment_sha256(segment) == hashlib.sha256(pcm).hexdigest()
    assert segment_sha256(np.asfortranarray(segment)) == hashlib.sha256(pcm).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 3001}, "not a multiple of hop_length = 100; take 30 frames, 3000 samples"),
        ({"sample_rate_hz": 0}, "sample_rate_hz must be at least 1"),
        ({"min_seconds": 3.5}, "min_seconds = 3.5 must lie between 0 and .* 3 s"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, int], message: str) -> None:
    good = {"sample_rate_hz": 1000, "channels": 1, "samples": 3000, "hop_length": 100}
    with pytest.raises(TdaError, match=message):
        SegmentSpec(**(good | change))


def test_nothing_is_never_a_segment() -> None:
    spec = SegmentSpec(1000, 1, 3000, 100, min_seconds=0)
    assert windows(0, spec) == []
    assert [window.valid_samples for window in windows(3001, spec)] == [3000, 1]
