"""Melody and harmony: which pitch classes sound when, whoever plays them."""

import warnings

import librosa
import numpy as np
import soxr

PITCH_CLASSES = 12
FRAMES = 256
RATE_HZ = 16_000
FRAME_S = 0.096
"""Length of the shortest frame, s; a piece of up to 24.576 s (256 frames) has these."""

_HOP = 512
_HOPS = round(FRAME_S * RATE_HZ / _HOP)
_LOWEST, _OCTAVES = "C2", 6
_QUIET = 0.03  # below this part of the loudest frame, -30 dB, a frame is silent
_SHORTEST = 512 * 2 ** (_OCTAVES - 1)  # samples; the filters of the lowest octave need a second


def melody(audio: np.ndarray, rate: int) -> np.ndarray:
    """The chroma of a piece over time, float32 [12, 256]; rows are the pitch classes from C.

    `audio` is mono float32 [samples] at `rate` Hz. Each column is a frame: chroma of a constant-Q
    transform (Brown, 1991; librosa's, six octaves from C2, the piece's own tuning) without its mean
    over the pitch classes, so that noise and drums leave nothing, scaled to the *seconds the frame
    lasts*. Silence, and what follows the end of the piece, are columns of zeros.

    Frames last 0.096 s, or that times the smallest power of two that fits the whole piece into 256
    of them. So pieces of very different lengths remain comparable: see `frame_seconds`. Neither
    gain nor timbre, as far as chroma can be had without it, changes the sequence.
    """
    resampled = soxr.resample(audio, rate, RATE_HZ)
    peak = float(np.abs(resampled).max(initial=0.0))
    if peak == 0:
        return np.zeros((PITCH_CLASSES, FRAMES), np.float32)
    levelled = np.pad(resampled / peak, (0, max(0, _SHORTEST - len(resampled))))
    with warnings.catch_warnings():
        # Of what has no tuned partials librosa says so, and takes A = 440 Hz: right.
        warnings.filterwarnings("ignore", message=".*tuning from empty frequency set")
        chroma = librosa.feature.chroma_cqt(
            y=levelled,
            sr=RATE_HZ,
            hop_length=_HOP,
            fmin=librosa.note_to_hz(_LOWEST),
            n_octaves=_OCTAVES,
            norm=None,
        )
    frames = max(1, -(-len(resampled) // (_HOP * _HOPS)))
    doublings = max(0, int(np.ceil(np.log2(frames / FRAMES))))
    return _columns(chroma, _HOPS * 2**doublings, frames=-(-frames // 2**doublings))


def frame_seconds(sequence: np.ndarray) -> float:
    """How long a frame of a sequence [12, 256] lasts, s; 0 for silence."""
    return float(np.linalg.norm(sequence, axis=0).max())


def _columns(chroma: np.ndarray, hops: int, frames: int) -> np.ndarray:
    """Chroma [12, hops of 32 ms] as `frames` columns of `hops` each, see `melody`."""
    filled = np.pad(chroma, ((0, 0), (0, max(0, frames * hops - chroma.shape[1]))))
    means = filled[:, : frames * hops].reshape(PITCH_CLASSES, frames, hops).mean(axis=2)
    energy = np.linalg.norm(means, axis=0)
    centred = means - means.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    heard = (energy > _QUIET * energy.max()) & (length > 1e-6 * energy)
    sequence = np.zeros((PITCH_CLASSES, FRAMES), np.float32)
    seconds = hops * _HOP / RATE_HZ
    sequence[:, :frames][:, heard] = seconds * centred[:, heard] / length[heard]
    return sequence
