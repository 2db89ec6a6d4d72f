"""Melodic similarity: the same music, whoever plays it, in whatever key and tempo."""

from typing import ClassVar, Literal

import numpy as np
import torch
from numpy import fft

from tda_dagster.attribution.methods.spec import Family, Material, ScoringSpec
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.embedding.melody import PITCH_CLASSES, frame_seconds

TEMPI = np.geomspace(0.8, 1.25, 11)
"""Tempi of a piece relative to the query's: steps of 4.6 %, so the nearest is at most 2.3 % off,
a frame and a half over six seconds."""


class Melody(ScoringSpec):
    """Similarity of chroma sequences under the best transposition, tempo and displacement.

    The query's sequence a (unit columns) is transposed by 0…11 semitones, played at tempi from 0.8
    to 1.25 of its own, and slid along the segment's, b. The score is the best of

        Σᵢ ⟨aᵢ, bᵢ₊ₖ⟩ / √(n·N),

    n being how many sounding frames coincide and N how many the query has: the mean cosine over
    the coincidence times √(n/N), because a match of a second is easily found by chance. It is 1
    for the piece itself and at most that. Cross-correlating chroma sequences under the twelve
    rotations is Ellis and Poliner's (ICASSP 2007); here tempi take the place of their beat tracker,
    which is at a loss on six seconds.
    """

    method: Literal["melody"] = "melody"
    family: ClassVar[Family] = "similarity"

    def score(
        self, material: Material, queries: LatentSegments, segments: LatentSegments
    ) -> torch.Tensor:
        train = material.embedding("melody")
        pieces = train.of(segments.segment_ids).double().numpy()
        asked = material.query_embedding("melody").of(queries.segment_ids).double().numpy()
        # All of the training set, so that the transforms do not depend on the part given.
        longest = _sounding_until(np.abs(train.vectors.numpy()).max(axis=0))
        lasting = np.array([frame_seconds(piece) for piece in pieces]).round(6)
        scores = np.zeros((len(asked), len(pieces)))
        for seconds in np.unique(lasting[lasting > 0]):
            there = np.flatnonzero(lasting == seconds)
            targets = _unit_columns(pieces[there][:, :, :longest])
            for row, query in enumerate(asked):
                if query.any():
                    played = [_played(query, tempo, float(seconds)) for tempo in TEMPI]
                    scores[row, there] = _best_similarities(played, targets)
        return torch.from_numpy(scores)


def _played(query: np.ndarray, tempo: float, seconds: float) -> np.ndarray:
    """A sequence at another tempo, in frames of `seconds`: unit columns [12, frames].

    A new frame is the sum of the old ones under it, parts of them by their length: exact in both
    directions, where interpolation would skip frames.
    """
    sequence = query[:, : _sounding_until(query)]
    ratio = frame_seconds(query) / seconds / tempo
    frames = max(1, round(sequence.shape[1] * ratio))
    edges = np.linspace(0, sequence.shape[1], frames + 1)
    until = np.pad(np.cumsum(sequence, axis=1), ((0, 0), (1, 0)))
    before = np.minimum(edges.astype(int), sequence.shape[1] - 1)
    at_edges = until[:, before] + (edges - before) * sequence[:, before]
    return _unit_columns(np.diff(at_edges, axis=1))


def _best_similarities(played: list[np.ndarray], targets: np.ndarray) -> np.ndarray:
    """Best over tempi, transpositions and displacements: `played` each [12, frames], `targets`
    [n, 12, frames], both of unit columns or zeros; returns [n]."""
    longest = max(sequence.shape[1] for sequence in played)
    size = -(-(longest + targets.shape[2]) // 32) * 32  # a length that transforms quickly
    shape = (PITCH_CLASSES, size)
    spectra = fft.rfft2(targets, s=shape)
    sounding = fft.rfft(targets.any(axis=1), size)
    best = np.full(len(targets), -np.inf)
    for sequence in played:
        if not sequence.any():
            continue
        sums = fft.irfft2(spectra * fft.rfft2(sequence, s=shape).conj(), s=shape).max(axis=1)
        frames = sequence.any(axis=0)
        coinciding = fft.irfft(sounding * fft.rfft(frames, size).conj(), size).round()
        similarity = sums / np.sqrt(np.maximum(coinciding, 1) * frames.sum())
        best = np.maximum(best, similarity.max(axis=1))
    return best


def _unit_columns(sequence: np.ndarray) -> np.ndarray:
    """Columns (second last axis) scaled to length one; those of next to nothing become zero."""
    length = np.linalg.norm(sequence, axis=-2, keepdims=True)
    heard = length > 1e-6 * length.max(initial=0.0)
    return np.where(heard, sequence / np.where(heard, length, 1.0), 0.0)


def _sounding_until(sequence: np.ndarray) -> int:
    """Frames up to the last one that is not silent; at least one."""
    sounding = np.flatnonzero(np.abs(sequence).max(axis=0))
    return int(sounding[-1]) + 1 if len(sounding) else 1
