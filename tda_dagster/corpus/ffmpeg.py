"""Decoding what libsndfile does not read (M4A, AAC, WMA, WavPack and more), where PyAV is there.

PyAV brings FFmpeg with it and is the optional extra `ffmpeg`.
"""

import importlib.util
import io
from collections.abc import Iterator

import numpy as np

from tda_dagster.corpus.containers import DamagedError
from tda_dagster.corpus.segments import Samples

_DECLARE_THEIR_LENGTH = {"mov", "matroska", "asf", "wv"}


def is_available() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


class ForeignFile:
    """A file that FFmpeg reads, with the rate and the channels of its first audio stream.

    `promised` is how many frames its container declares, None if it does not. Raises
    `DamagedError` where FFmpeg cannot open it.
    """

    def __init__(self, content: bytes, demuxer: str) -> None:
        import av

        try:
            # The demuxer is given: others, such as those of playlists, would open further files.
            self._container = av.open(io.BytesIO(content), format=demuxer)
        except (av.FFmpegError, ValueError) as error:
            raise DamagedError(f"it is truncated or damaged: {_said(error)}") from error
        if not self._container.streams.audio:
            raise DamagedError("it has no audio stream")
        self._stream = self._container.streams.audio[0]
        self.rate_hz = int(self._stream.codec_context.sample_rate or 0)
        self.channels = int(self._stream.codec_context.channels or 0)
        self.promised: int | None = None
        if demuxer in _DECLARE_THEIR_LENGTH:
            seconds = 0.0
            if self._stream.duration is not None and self._stream.time_base is not None:
                seconds = float(self._stream.duration * self._stream.time_base)
            elif self._container.duration is not None:
                seconds = self._container.duration / av.time_base
            self.promised = round(seconds * self.rate_hz) or None

    def blocks(self) -> Iterator[Samples]:
        """The samples from front to end, float32 [n, channels]; raises `DamagedError`."""
        import av

        with self._container:
            converter = av.AudioResampler(format="fltp")  # of the samples alone, not of the rate
            try:
                for frame in self._container.decode(self._stream):
                    for converted in converter.resample(frame):
                        yield np.ascontiguousarray(converted.to_ndarray().T)
            except (av.FFmpegError, ValueError) as error:
                raise DamagedError(f"it is truncated or damaged: {_said(error)}") from error


def _said(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or "FFmpeg cannot read it")
