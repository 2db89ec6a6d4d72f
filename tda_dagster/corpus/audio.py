"""Decoding: from an audio file's bytes to float32 samples as the model wants them.

Belongs here: opening what libsndfile reads (WAV, FLAC, Ogg, MP3, AIFF and more), mixing channels,
resampling, and saying why a file cannot be used.
"""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from tda_dagster.corpus.location import LocationError, read_bytes
from tda_dagster.corpus.rejects import RejectReason
from tda_dagster.corpus.segments import Samples, SegmentSpec
from tda_dagster.errors import TdaError

_BLOCK_FRAMES = 1 << 18
_LONGEST_SHORTFALL_S = 1.0


class AudioError(TdaError):
    """An audio file cannot be used; `reason` is its code in `rejects`, `detail` the sentence."""

    def __init__(self, uri: str, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{uri}: {detail}.")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class AudioFile:
    """A decoded file: samples [spec.channels, n] at the model's rate, and facts of the file itself.

    `sha256` is that of the file's bytes, `sample_rate_hz`, `channels` and `duration_s` are the
    file's own, before resampling and mixing.
    """

    samples: Samples
    sha256: str
    sample_rate_hz: int
    channels: int
    duration_s: float


def open_audio(uri: str, spec: SegmentSpec) -> AudioFile:
    """Read and decode a local file or fsspec URL. Raises `AudioError`.

    Channels: to mono by their mean; mono to several by repetition; any other change goes through
    mono. Resampling is soxr's HQ. The bytes are read once, so the hash is of what was decoded.
    """
    try:
        content = read_bytes(uri)
    except LocationError as error:
        reason = RejectReason.MISSING_FILE if error.missing else RejectReason.UNREADABLE
        raise AudioError(uri, reason, str(error)) from error
    try:
        native, rate, channels = _decode(content, spec.channels)
    except soundfile.LibsndfileError as error:  # its str() holds a memory address
        raise AudioError(uri, RejectReason.UNREADABLE, _sentence(error.error_string)) from error
    except _TruncatedError as error:
        raise AudioError(uri, RejectReason.UNREADABLE, str(error)) from error
    if not np.isfinite(native).all():
        raise AudioError(uri, RejectReason.NOT_FINITE, "it contains samples that are NaN or Inf")
    return AudioFile(
        samples=_resample(native, rate, spec.sample_rate_hz),
        sha256=hashlib.sha256(content).hexdigest(),
        sample_rate_hz=rate,
        channels=channels,
        duration_s=len(native) / rate,
    )


def decode_audio(uri: str, spec: SegmentSpec) -> Samples:
    """Samples of a file, float32 [spec.channels, n] at `spec.sample_rate_hz`. See `open_audio`."""
    return open_audio(uri, spec).samples


class _TruncatedError(Exception):
    pass


def _decode(content: bytes, channels: int) -> tuple[Samples, int, int]:
    """Samples [n, channels] at the file's own rate, that rate, and the file's channel count.

    Reads by blocks until nothing comes: the length in a header may be unknown, or a lie that would
    have us allocate terabytes.
    """
    blocks: list[Samples] = []
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
            blocks.append(_mix(block, channels))
        rate, own_channels, promised = file.samplerate, file.channels, file.frames
    native = np.concatenate(blocks) if blocks else np.zeros((0, channels), np.float32)
    unknown_length = promised >= np.iinfo(np.int64).max
    if not unknown_length and promised - len(native) > _LONGEST_SHORTFALL_S * rate:
        raise _TruncatedError(
            f"it is truncated: its header promises {promised / rate:.1f} s, "
            f"{len(native) / rate:.1f} s can be decoded"
        )
    return native, rate, own_channels


def _mix(block: Samples, channels: int) -> Samples:
    """[n, any] -> [n, channels]; see `open_audio` for the rule."""
    if block.shape[1] == channels:
        return block
    with np.errstate(invalid="ignore", over="ignore"):  # Inf and NaN are reported by the caller
        mono = block.mean(axis=1, keepdims=True, dtype=np.float32)
    return np.repeat(mono, channels, axis=1)


def _resample(native: Samples, rate: int, target_rate: int) -> Samples:
    """[n, channels] at `rate` -> contiguous [channels, m] at `target_rate`."""
    if rate != target_rate and len(native):
        native = soxr.resample(native, rate, target_rate, quality="HQ")
    return np.ascontiguousarray(native.T, dtype=np.float32)


def _sentence(error_string: str) -> str:
    reason = error_string.strip().rstrip(".") or "unknown error"
    return f"it cannot be decoded: {reason} (convert it to WAV or FLAC)"
