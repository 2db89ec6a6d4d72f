"""Timbre: which instruments, how bright, how it varies; nothing of melody or loudness."""

import librosa
import numpy as np
import soxr

RATE_HZ = 16_000
COEFFICIENTS = 20
_FFT, _HOP, _BANDS = 2048, 512, 64


def timbre(audio: np.ndarray, rate: int) -> np.ndarray:
    """Mean and standard deviation over time of 20 mel-frequency cepstral coefficients.

    `audio` is mono float32 [samples] at `rate` Hz, of any length; returns float32 [40], the means
    first. The coefficients (Davis and Mermelstein, 1980; librosa's: the orthonormal DCT-II of 64
    log-mel bands up to 8 kHz) are taken at 16 kHz, whatever the rate, so that vectors of different
    studies compare. The level is normalised to a root mean square of one before: gain changes
    nothing. Silence has a vector, too (of no loudness, without variation).
    """
    resampled = soxr.resample(audio, rate, RATE_HZ).astype(np.float64)
    level = np.sqrt(np.mean(resampled**2)) if len(resampled) else 0.0
    levelled = resampled / level if level > 0 else np.zeros(_FFT)
    padded = np.pad(levelled, (0, max(0, _FFT - len(levelled))))
    coefficients = librosa.feature.mfcc(
        y=padded, sr=RATE_HZ, n_mfcc=COEFFICIENTS, n_fft=_FFT, hop_length=_HOP, n_mels=_BANDS
    )
    return np.concatenate([coefficients.mean(axis=1), coefficients.std(axis=1)]).astype(np.float32)
