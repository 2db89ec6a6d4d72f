"""Pieces: recordings to attribute, held to the rules that tracks are held to.

Belongs here: decoding an imported piece whole, cutting it into the model's windows, and saying why
one cannot be attributed. Which pieces there are, a cohort's file says.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tda_dagster.corpus.audio import open_audio
from tda_dagster.corpus.segments import Samples, SegmentSpec, Window, cut, segment_sha256, windows
from tda_dagster.errors import TdaError


class PieceError(TdaError):
    """A recording that cannot be attributed; the message has its file and a sentence."""


@dataclass(frozen=True)
class PieceWindow:
    """One window of a piece: float32 [channels, spec.samples], zero after its valid samples.

    `start_s` is where it begins in the piece (s); `sha256` is that of its samples, as `dim_segment`
    has it of training segments; a `silent` one is not attributed.
    """

    window: Window
    start_s: float
    samples: Samples
    sha256: str
    silent: bool


@dataclass(frozen=True)
class Piece:
    """A decoded recording, float32 [spec.channels, n], and where it is cut by `spec`."""

    audio: Samples
    spec: SegmentSpec
    cuts: tuple[Window, ...]

    @property
    def seconds(self) -> float:
        """Its whole length."""
        return float(self.audio.shape[1] / self.spec.sample_rate_hz)

    @property
    def left_out_s(self) -> float:
        """Length (s) of an end that is too short for a window of its own; 0 where there is none."""
        end = self.cuts[-1].start + self.cuts[-1].valid_samples
        return float((self.audio.shape[1] - end) / self.spec.sample_rate_hz)

    def windows(self) -> Iterator[PieceWindow]:
        """Its windows in order, cut one at a time."""
        for window in self.cuts:
            samples = cut(self.audio, window, self.spec)
            yield PieceWindow(
                window=window,
                start_s=window.start / self.spec.sample_rate_hz,
                samples=samples,
                sha256=segment_sha256(samples),
                silent=float(np.abs(samples).max()) < 10 ** (self.spec.silence_dbfs / 20),
            )


def open_piece(uri: str, spec: SegmentSpec) -> Piece:
    """Decode a recording that is to be attributed.

    Raises `AudioError` for a file that cannot be decoded or is empty, and `PieceError` for one that
    is shorter than `spec.min_seconds`, or silent from beginning to end.
    """
    found = open_audio(uri, spec)
    piece = Piece(found.samples, spec, tuple(windows(found.samples.shape[1], spec)))
    if not piece.cuts:
        raise PieceError(
            f"{uri}: it is {found.duration_s:.3f} s long, the shortest piece is "
            f"{spec.min_seconds:g} s (dataset.min_seconds)"
        )
    if all(window.silent for window in piece.windows()):
        raise PieceError(
            f"{uri}: it is silent: its peak stays below {spec.silence_dbfs:g} dBFS "
            "(dataset.silence_dbfs)"
        )
    return piece
