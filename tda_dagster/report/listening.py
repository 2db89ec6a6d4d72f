"""Listening copies: sounds small enough to travel inside a page, the same bytes every time."""

import io

import numpy as np
import soundfile
import soxr

from tda_dagster.errors import TdaError
from tda_dagster.report.contents import Sound

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_CHUNK = 1 << 14  # encoders behind libsndfile have crashed on one long write


class SoundError(TdaError):
    """A sound that cannot be listened to."""


def mp3(sound: Sound) -> bytes:
    """A sound as MP3, whole, at its own sampling rate or the nearest higher that MP3 knows.

    MP3 because every browser plays it and its bytes depend on the samples alone (Ogg streams
    carry a random serial number); about 6 kB per second at 22 kHz. Louder than full scale is
    turned down rather than clipped. Raises SoundError for samples that are no mono sound.
    """
    samples = np.asarray(sound.samples, dtype=np.float32)
    if samples.ndim != 1 or not len(samples):
        raise SoundError(
            f"a sound for the report has shape {samples.shape}, not [samples]; "
            "mix it down to one channel"
        )
    if not np.isfinite(samples).all():
        raise SoundError(
            f"a sound for the report has {int((~np.isfinite(samples)).sum())} samples that are "
            "not finite; look at how it was generated or decoded"
        )
    rate = next((r for r in MP3_RATES if r >= sound.sampling_rate), MP3_RATES[-1])
    if rate != sound.sampling_rate:
        samples = soxr.resample(samples, sound.sampling_rate, rate)
    samples = samples / max(1.0, float(np.abs(samples).max()))
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1, "MPEG_LAYER_III", format="MP3") as file:
        for start in range(0, len(samples), _CHUNK):
            file.write(samples[start : start + _CHUNK])
    return buffer.getvalue()
