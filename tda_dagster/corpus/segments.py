"""Segments: the fixed-length windows of a track that are the unit of training and of scoring.

Belongs here: where windows lie, how many of their samples and latent frames are valid, and cutting
them out of decoded audio. Pure arithmetic on arrays: no files, no tables.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tda_dagster.errors import TdaError

Samples = NDArray[np.float32]
"""Audio, float32 [channels, samples], full scale 1.0."""


@dataclass(frozen=True)
class SegmentSpec:
    """How audio is cut for a model.

    `samples` is the length of a window at `sample_rate_hz`, a multiple of `hop_length`, the samples
    per latent frame. Audio shorter than `min_seconds` makes no segment; a track whose peak is
    below `silence_dbfs` (dB relative to full scale) counts as silent.
    """

    sample_rate_hz: int
    channels: int
    samples: int
    hop_length: int
    min_seconds: float = 1.0
    silence_dbfs: float = -60.0

    def __post_init__(self) -> None:
        for name in ("sample_rate_hz", "channels", "samples", "hop_length"):
            if getattr(self, name) < 1:
                raise TdaError(f"segments: {name} must be at least 1, not {getattr(self, name)}.")
        if self.samples % self.hop_length:
            raise TdaError(
                f"segments: samples = {self.samples} is not a multiple of hop_length = "
                f"{self.hop_length}; take {max(1, self.samples // self.hop_length)} frames, "
                f"{max(1, self.samples // self.hop_length) * self.hop_length} samples."
            )
        window_s = self.samples / self.sample_rate_hz
        if not 0 <= self.min_seconds <= window_s:
            raise TdaError(
                f"segments: min_seconds = {self.min_seconds:g} must lie between 0 and the "
                f"length of a segment, {window_s:g} s."
            )

    @property
    def frames(self) -> int:
        """Latent frames of a window."""
        return self.samples // self.hop_length

    @property
    def min_samples(self) -> int:
        """The fewest valid samples that make a segment; never 0, for nothing is no segment."""
        return max(1, round(self.min_seconds * self.sample_rate_hz))


@dataclass(frozen=True)
class Window:
    """One window of a track: starts at sample `start`, of its samples the first `valid` exist."""

    segment_index: int
    start: int
    valid_samples: int
    valid_frames: int


def windows(total_samples: int, spec: SegmentSpec) -> list[Window]:
    """The windows of a track of `total_samples`: consecutive, without overlap.

    The last one is kept when its valid part is at least `spec.min_seconds` long, so a track shorter
    than that has none.
    """
    return [
        Window(index, start, valid, -(-valid // spec.hop_length))
        for index, start in enumerate(range(0, total_samples, spec.samples))
        if (valid := min(spec.samples, total_samples - start)) >= spec.min_samples
    ]


def cut(audio: Samples, window: Window, spec: SegmentSpec) -> Samples:
    """A copy [channels, spec.samples] of a window of `audio`, zero after its valid samples."""
    segment = np.zeros((audio.shape[0], spec.samples), dtype=np.float32)
    end = window.start + window.valid_samples
    segment[:, : window.valid_samples] = audio[:, window.start : end]
    return segment


def segment_sha256(segment: Samples) -> str:
    """sha256 of a zero-padded segment as little-endian float32 PCM, channel after channel."""
    return hashlib.sha256(segment.astype("<f4").tobytes()).hexdigest()
