"""How well an autoencoder gives back what it was given."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reconstruction:
    """Distances between an original and its reconstruction.

    `log_mel_db` is the mean absolute difference of 80-band log-mel spectra in dB (60 dB range);
    `si_sdr_db` the scale-invariant signal-to-distortion ratio (Le Roux et al., arXiv:1811.02508),
    which is low for every codec that does not keep phases, however good it sounds.
    """

    log_mel_db: float
    si_sdr_db: float


def compare(original: np.ndarray, estimate: np.ndarray, sampling_rate: int) -> Reconstruction:
    """Compare mono audio [samples] of equal length."""
    difference = log_mel(original, sampling_rate) - log_mel(estimate, sampling_rate)
    return Reconstruction(float(np.abs(difference).mean()), si_sdr(original, estimate))


def si_sdr(original: np.ndarray, estimate: np.ndarray) -> float:
    """10·log₁₀(‖αs‖²/‖αs − ŝ‖²) with α = ⟨ŝ, s⟩/‖s‖²: scale-invariant SDR, dB, at least -120
    (which silence gets)."""
    reference = original.astype(np.float64)
    guess = estimate.astype(np.float64)
    scaled = reference * (guess @ reference) / (reference @ reference + 1e-12)
    distortion = scaled - guess
    ratio = float(scaled @ scaled) / (float(distortion @ distortion) + 1e-12)
    return float(10 * np.log10(max(ratio, 1e-12)))


def log_mel(audio: np.ndarray, sampling_rate: int, bands: int = 80) -> np.ndarray:
    """Log-mel spectrogram in dB [bands, frames], floored 60 dB below full scale."""
    size, hop = 1024, 256
    padded = np.pad(audio.astype(np.float64), (0, max(0, size - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)).T / (size / 4)
    mel = _mel_filters(sampling_rate, size, bands) @ magnitude
    return np.asarray(20 * np.log10(mel + 1e-3))


def _mel_filters(sampling_rate: int, size: int, bands: int) -> np.ndarray:
    """Triangular filters [bands, bins] with weights summing to one, HTK mel scale from 40 Hz."""

    def to_mel(hertz: float) -> float:
        return float(2595 * np.log10(1 + hertz / 700))

    edges = np.linspace(to_mel(40), to_mel(sampling_rate / 2), bands + 2)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    bins = np.linspace(0, sampling_rate / 2, size // 2 + 1)
    width = sampling_rate / size  # a filter narrower than a bin would see nothing
    low = np.minimum(hertz[:-2], hertz[1:-1] - width)[:, None]
    high = np.maximum(hertz[2:], hertz[1:-1] + width)[:, None]
    centre = hertz[1:-1, None]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    weights = np.clip(np.minimum(rising, falling), 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
