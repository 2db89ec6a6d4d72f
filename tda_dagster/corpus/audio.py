"""Decoding: from an audio file's bytes to float32 samples as the model wants them.

Belongs here: opening what libsndfile reads (WAV, FLAC, Ogg, MP3, AIFF and more) and, where PyAV is
installed, what FFmpeg reads; mixing channels, resampling, and saying why a file cannot be used.
"""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from tda_dagster.corpus import ffmpeg
from tda_dagster.corpus.containers import (
    ContainerError,
    DamagedError,
    Stream,
    TruncatedError,
    foreign_kind,
    read_container,
)
from tda_dagster.corpus.location import LocationError, read_bytes, shown_location
from tda_dagster.corpus.rejects import RejectReason
from tda_dagster.corpus.segments import Samples, SegmentSpec
from tda_dagster.errors import TdaError

LOWEST_RATE_HZ = 1_000
HIGHEST_RATE_HZ = 768_000
"""Telephones sample at 8 kHz, old computers at 4 to 5 kHz; converters end at 768 kHz.
What lies outside is a damaged header or no sound, and resampling it could take any memory."""

MOST_VALUES = 1 << 30
"""The most samples, over all channels and at the model's rate, that a file may have: 4 GiB, which
is 6.8 h in mono or 3.4 h in stereo at 44.1 kHz. A few bytes of FLAC can hold days of silence."""

HIGHEST_PEAK = 16.0
"""Full scale is 1. Masters in floating point go some dB beyond it, but 24 dB are another scale."""

_INSTALL = ", or install tda-dagster[ffmpeg], which reads it"
_BLOCK_VALUES = 1 << 18
_LONGEST_SHORTFALL_S = 0.1  # a decoder's delay; a tenth of a second is not a file that broke off
_UNKNOWN_FRAMES = 1 << 62  # libsndfile's word for a length that no header tells


class AudioError(TdaError):
    """An audio file cannot be used; `reason` is its code in `rejects`, `detail` the sentence."""

    def __init__(self, uri: str, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{shown_location(uri)}: {detail}.")
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
    """Read and decode a local file or fsspec URL, whole, with its length counted and not believed.

    Channels: to mono by their mean; mono to several by repetition; any other change goes through
    mono. Resampling is soxr's HQ. The bytes are read once, so the hash is of what was decoded.
    Memory is that of the file's bytes and of the samples returned, which are at most `MOST_VALUES`.

    Raises `AudioError` for a file that is missing, cannot be read or decoded, broke off, holds no
    audio, is too long, has an implausible sample rate or peak, or samples that are not finite.
    """
    try:
        content = read_bytes(uri)
    except LocationError as error:
        reason = RejectReason.MISSING_FILE if error.missing else RejectReason.UNREADABLE
        raise AudioError(uri, reason, str(error)) from error
    try:
        samples, source = _decode(content, spec)
    except soundfile.LibsndfileError as error:  # its str() holds a memory address
        raise AudioError(uri, RejectReason.UNREADABLE, _why(content, error)) from error
    except ContainerError as error:
        raise AudioError(uri, RejectReason.UNREADABLE, str(error)) from error
    except _UnusableError as error:
        raise AudioError(uri, error.reason, str(error)) from error
    return AudioFile(
        samples=samples,
        sha256=hashlib.sha256(content).hexdigest(),
        sample_rate_hz=source.rate_hz,
        channels=source.channels,
        duration_s=source.frames / source.rate_hz,
    )


def decode_audio(uri: str, spec: SegmentSpec) -> Samples:
    """Samples of a file, float32 [spec.channels, n] at `spec.sample_rate_hz`. See `open_audio`."""
    return open_audio(uri, spec).samples


class _UnusableError(Exception):
    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class _Source:
    rate_hz: int
    channels: int
    frames: int


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from front to end.

    Otherwise soundfile seeks after every block. That fails where the length is unknown, and in a
    VBR MP3 it lands somewhere else, because the position is only estimated.
    """

    def seekable(self) -> bool:
        return False


def _decode(content: bytes, spec: SegmentSpec) -> tuple[Samples, _Source]:
    """Samples [spec.channels, n] at the model's rate, and what the file itself has."""
    sink: _Sink | None
    kind = foreign_kind(content)
    if kind is not None and kind.demuxer is not None and ffmpeg.is_available():
        sink = _read_foreign(content, kind.demuxer, spec)
    else:
        sink = _read_streams(content, spec)
    if sink is None or sink.frames == 0:
        raise _UnusableError(RejectReason.TOO_SHORT, "it holds no audio, 0.000 s")
    return sink.finish(), _Source(sink.rate_hz, sink.channels, sink.frames)


def _read_streams(content: bytes, spec: SegmentSpec) -> "_Sink | None":
    sink: _Sink | None = None
    for stream in read_container(content):
        if stream.frames == 0:
            continue
        with _ForwardFile(io.BytesIO(stream.content)) as file:
            if sink is None:
                sink = _Sink(file.samplerate, file.channels, spec)
            sink.require_same(file.samplerate, file.channels)
            _read(file, stream, sink)
    return sink


def _read_foreign(content: bytes, demuxer: str, spec: SegmentSpec) -> "_Sink":
    file = ffmpeg.ForeignFile(content, demuxer)
    sink = _Sink(file.rate_hz, file.channels, spec)
    sink.require_room(file.promised or 0)
    for block in file.blocks():
        sink.require_same(file.rate_hz, block.shape[1])
        sink.add(block)
    _require_promised(sink, file.promised or 0, sink.frames, "its header promises")
    return sink


def _read(file: soundfile.SoundFile, stream: Stream, sink: "_Sink") -> None:
    """Decode by blocks until nothing comes, since the length in a header may be unknown or a lie.

    Raises `TruncatedError` where less comes than was promised.
    """
    promised: int = file.frames if stream.frames is None else stream.frames
    end = sink.frames + promised
    if promised < _UNKNOWN_FRAMES:
        sink.require_room(end)
    before = sink.frames
    try:
        # Not beyond what was promised: tags may follow, at which a decoder stumbles.
        while wanted := min(sink.block_frames, end - sink.frames):
            block = file.read(wanted, dtype="float32", always_2d=True)
            if not len(block):
                break
            sink.add(block)
    except soundfile.LibsndfileError as error:
        raise DamagedError(f"it is truncated or damaged: {_said(error)}") from error
    if promised < _UNKNOWN_FRAMES:
        whose = "its header promises" if stream.frames is None else "it has frames for"
        _require_promised(sink, promised, sink.frames - before, whose)


def _require_promised(sink: "_Sink", promised: int, decoded: int, whose: str) -> None:
    if promised - decoded > _LONGEST_SHORTFALL_S * sink.rate_hz:
        raise TruncatedError(
            f"{whose} {promised / sink.rate_hz:.1f} s, "
            f"{decoded / sink.rate_hz:.1f} s can be decoded"
        )


class _Sink:
    """Takes decoded blocks; checks, mixes and resamples each as it comes."""

    def __init__(self, rate_hz: int, channels: int, spec: SegmentSpec) -> None:
        self.rate_hz = rate_hz
        self.channels = channels
        self.frames = 0
        self._spec = spec
        self._blocks: list[Samples] = []
        if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
            raise _UnusableError(
                RejectReason.IMPLAUSIBLE,
                f"its sample rate is {rate_hz} Hz, which is outside "
                f"{LOWEST_RATE_HZ} ... {HIGHEST_RATE_HZ} Hz: correct its header",
            )
        self.block_frames = max(1, _BLOCK_VALUES // channels)
        self._resampler: soxr.ResampleStream | None = None
        if rate_hz != spec.sample_rate_hz:
            self._resampler = soxr.ResampleStream(
                rate_hz, spec.sample_rate_hz, spec.channels, dtype="float32", quality="HQ"
            )

    def require_same(self, rate_hz: int, channels: int) -> None:
        """Raise if the next part of a file has another format than those before."""
        if (rate_hz, channels) != (self.rate_hz, self.channels):
            raise _UnusableError(
                RejectReason.UNREADABLE,
                f"its parts differ: {self.rate_hz} Hz with {self.channels} channels, then "
                f"{rate_hz} Hz with {channels} channels; split it or convert it to WAV or FLAC",
            )

    def require_room(self, frames: int) -> None:
        """Raise if so many frames of the file are more than can be held."""
        target = self._spec.sample_rate_hz
        longest_s = MOST_VALUES / self._spec.channels / target
        if frames > longest_s * self.rate_hz:
            raise _UnusableError(
                RejectReason.TOO_LONG,
                f"it is {frames / self.rate_hz / 3600:.1f} h long or more; a track may have at "
                f"most {longest_s / 3600:.1f} h: split it",
            )

    def add(self, block: Samples) -> None:
        """Take frames [n, channels] of the file."""
        peak = float(np.abs(block).max())
        if not np.isfinite(peak):
            raise _UnusableError(RejectReason.NOT_FINITE, "it contains samples that are NaN or Inf")
        if peak > HIGHEST_PEAK:
            raise _UnusableError(
                RejectReason.IMPLAUSIBLE,
                f"it has samples of {peak:.6g} where full scale is 1: scale it to -1 ... 1",
            )
        self.frames += len(block)
        self.require_room(self.frames)
        mixed = _mix(block, self._spec.channels)
        if self._resampler is not None:
            mixed = self._resampler.resample_chunk(np.ascontiguousarray(mixed))
        self._blocks.append(mixed)

    def finish(self) -> Samples:
        """All that was taken, [spec.channels, n] at the model's rate."""
        if self._resampler is not None:
            nothing = np.zeros((0, self._spec.channels), np.float32)
            self._blocks.append(self._resampler.resample_chunk(nothing, last=True))
        samples = np.empty((self._spec.channels, sum(map(len, self._blocks))), np.float32)
        end = samples.shape[1]
        while self._blocks:  # from the back, and let go at once: this is most of the memory
            block = self._blocks.pop()
            samples[:, end - len(block) : end] = block.T
            end -= len(block)
        return samples


def _mix(block: Samples, channels: int) -> Samples:
    """[n, any] -> [n, channels]; see `open_audio` for the rule."""
    if block.shape[1] == channels:
        return block
    mono = block.mean(axis=1, keepdims=True, dtype=np.float32)
    return np.repeat(mono, channels, axis=1)


def _why(content: bytes, error: soundfile.LibsndfileError) -> str:
    if not content:
        return "it cannot be decoded: the file is empty"
    kind = foreign_kind(content)
    if kind is not None:
        advice = "" if kind.demuxer is None else "; convert it to WAV or FLAC" + _INSTALL
        return f"it cannot be decoded: it is {kind.name}{advice}"
    return f"it cannot be decoded: {_said(error)} (convert it to WAV or FLAC)"


def _said(error: soundfile.LibsndfileError) -> str:
    words: str = error.error_string
    return words.removeprefix("Error :").strip().rstrip(".") or "unknown error"
