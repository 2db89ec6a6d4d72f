"""MPEG audio (MP3, MP2, MP1): the frames that are really there, counted one by one.

Belongs here: frame headers, what may stand between and around frames (tags, pictures, junk), and
the header frame (Xing, Info or VBRI) that promises a number of frames. A decoder only estimates
the length of a stream without that header, so the stream is handed to it with a true one.
"""

import functools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tda_dagster.corpus.containers.stream import DamagedError, Stream, TruncatedError

_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_KBPS = {
    (3, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SYNC = re.compile(rb"\xff(?=[\xe2-\xff])")
_SEARCHED_BYTES = 1 << 20
_SEARCHED_FREE_BYTES = 1 << 10  # finding the length of a frame in free format takes longer
_LARGEST_FREE_FRAME = 1 << 13
_IN_A_ROW = 3  # headers at the right distances that prove a stream
_SLACK_FRAMES = 3  # some writers count the header frame, or the decoder's delay
_MOST_CUT = 0.1  # the part of the last frame that may be missing


@dataclass(frozen=True)
class _Header:
    """What four bytes say of a frame. `bytes` is None in free format, which does not say it."""

    version: int  # as coded: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5
    layer: int
    rate_hz: int
    channels: int
    padding: int
    bytes: int | None

    @property
    def samples(self) -> int:
        if self.layer == 1:
            return 384
        return 576 if self.layer == 3 and self.version != 3 else 1152

    @property
    def kind(self) -> tuple[int, int, int]:
        """What all frames of a stream have in common."""
        return self.version, self.layer, self.rate_hz

    @property
    def side_bytes(self) -> int:
        """The length of the side information of a frame of layer III."""
        if self.version == 3:
            return 17 if self.channels == 1 else 32
        return 9 if self.channels == 1 else 17


@dataclass(frozen=True)
class _Frame:
    start: int
    end: int  # may lie beyond the last byte
    header: _Header


def find_mpeg(content: bytes, start: int) -> int | None:
    """Where the first frame of an MPEG audio stream begins, at `start` or after some junk.

    None if no run of frames begins within the first megabyte.
    """
    for match in _SYNC.finditer(content, start, start + _SEARCHED_BYTES):
        header = _header(content, match.start())
        if header is None:
            continue
        if header.bytes is None and match.start() > start + _SEARCHED_FREE_BYTES:
            continue
        run = _Walk(content, match.start())
        for count, frame in enumerate(run.unbroken(), 1):
            if frame.end > len(content):
                break
            if count >= _IN_A_ROW or frame.end == len(content) or _is_tag(content, frame.end):
                return match.start()
    return None


def read_mpeg(content: bytes, start: int) -> Stream:
    """The stream that begins at `start`, ready for a decoder, with its true length.

    Raises `TruncatedError` where a header frame promises more frames than there are, or most of
    the last frame is missing, and `DamagedError` where the sample rate or the channels change.
    """
    frames = list(_Walk(content, start).resynchronised())
    audio: list[_Frame] = []
    promises: list[int] = []
    for frame in frames:
        if frame.end <= len(content):
            promise = _promise(content, frame)
            if promise is None:
                audio.append(frame)
            else:
                promises.append(promise)
    if not audio:
        return Stream(b"", frames=0)
    first = audio[0].header
    _require_one_format(audio)
    _require_whole(content, frames[-1], audio, promises, first)
    lengths = sum(frame.end - frame.start for frame in audio)
    if (
        promises == [len(audio)]
        and audio[0].start == frames[0].end
        and audio[-1].end == audio[0].start + lengths
        and content[start + 36 : start + 40] != b"VBRI"
    ):  # The header may stay. It also says how much silence the encoder has added.
        return Stream(content[start : audio[-1].end])
    body = b"".join(content[frame.start : frame.end] for frame in audio)
    samples = len(audio) * first.samples
    if first.layer == 3:
        return Stream(_info_frame(content, audio) + body, samples)
    return Stream(body + _room(audio), samples)


def _require_one_format(audio: list[_Frame]) -> None:
    formats = {(frame.header.rate_hz, frame.header.channels): None for frame in audio}
    if len(formats) > 1:
        names = [f"{rate} Hz with {channels} channels" for rate, channels in formats]
        raise DamagedError(
            f"it changes in its course from {names[0]} to {names[1]}; convert it to WAV or FLAC"
        )


def _require_whole(
    content: bytes, last: _Frame, audio: list[_Frame], promises: list[int], first: _Header
) -> None:
    def seconds(count: int) -> float:
        return count * first.samples / first.rate_hz

    promised = sum(promises)
    if promised > len(audio) + _SLACK_FRAMES:
        raise TruncatedError(
            f"its header promises {seconds(promised):.1f} s, {seconds(len(audio)):.1f} s are there"
        )
    missing = last.end - len(content)
    if missing > _MOST_CUT * (last.end - last.start) and promised != len(audio):
        raise TruncatedError(f"it breaks off in its last frame, after {seconds(len(audio)):.1f} s")


class _Walk:
    """From frame to frame through the bytes of a stream."""

    def __init__(self, content: bytes, start: int) -> None:
        self._content = content
        self._start = start
        self._first = _header(content, start)
        self._free_bytes: int | None = None
        if self._first is not None and self._first.bytes is None:
            self._free_bytes = self._free_format()

    def unbroken(self) -> Iterator[_Frame]:
        """Frames that follow one another without a gap."""
        position = self._start
        while (frame := self._frame(position)) is not None:
            yield frame
            position = frame.end

    def resynchronised(self) -> Iterator[_Frame]:
        """All frames up to the tags at the end, wherever the next one is after a gap."""
        position, end = self._start, len(self._content)
        while position < end:
            frame = self._frame(position)
            if frame is not None:
                yield frame
                position = frame.end
                continue
            after = self._after_gap(position)
            if after is None:
                return
            position = after

    def _after_gap(self, position: int) -> int | None:
        tag_bytes = id3v2_bytes(self._content, position)
        if tag_bytes:
            return position + tag_bytes
        for match in _SYNC.finditer(self._content, position + 1):
            frame = self._frame(match.start())
            # One header alone may be chance: another one, or the end, must follow.
            if frame is not None and (
                frame.end == len(self._content) or self._frame(frame.end) is not None
            ):
                return match.start()
        return None

    def _frame(self, position: int) -> _Frame | None:
        header = _header(self._content, position)
        if header is None or self._first is None:
            return None
        if header.kind != self._first.kind and not self._continues(position, header):
            return None
        length = header.bytes
        if length is None:
            if self._free_bytes is None:
                return None
            length = self._free_bytes + header.padding
        return _Frame(position, position + length, header)

    def _continues(self, position: int, header: _Header) -> bool:
        """Whether another stream begins here, of another kind, and not a chance likeness."""
        for _ in range(_IN_A_ROW):
            if header.bytes is None:
                return False
            position += header.bytes
            following = _header(self._content, position)
            if following is None or following.kind != header.kind:
                return False
            header = following
        return True

    def _free_format(self) -> int | None:
        """The bytes of a frame without padding: the distance at which headers come again."""
        first = self._first
        assert first is not None
        shortest = self._start + 24
        for match in _SYNC.finditer(self._content, shortest, self._start + _LARGEST_FREE_FRAME):
            second = _header(self._content, match.start())
            if second is None or second.bytes is not None or second.kind != first.kind:
                continue
            length = match.start() - self._start - first.padding
            third = _header(self._content, match.start() + length + second.padding)
            if third is not None and third.bytes is None and third.kind == first.kind:
                return length
        return None


def _header(content: bytes, position: int) -> _Header | None:
    four = content[position : position + 4]
    return _parsed(int.from_bytes(four, "big")) if len(four) == 4 else None


@functools.lru_cache(4096)
def _parsed(bits: int) -> _Header | None:
    version, layer = bits >> 19 & 3, 4 - (bits >> 17 & 3)
    bitrate, rate, padding = bits >> 12 & 15, bits >> 10 & 3, bits >> 9 & 1
    if bits >> 21 != 0x7FF or version == 1 or layer == 4 or bitrate == 15 or rate == 3:
        return None
    rate_hz = _RATES_HZ[version][rate]
    channels = 1 if bits >> 6 & 3 == 3 else 2
    slot = 4 if layer == 1 else 1
    length: int | None = None
    if bitrate:
        bits_per_s = 1000 * _KBPS[3 if version == 3 else 2, _column(version, layer)][bitrate]
        samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
        length = (samples // 8 // slot * bits_per_s // rate_hz + padding) * slot
    return _Header(version, layer, rate_hz, channels, padding * slot, length)


def _column(version: int, layer: int) -> int:
    return layer if version == 3 else min(layer, 2)  # MPEG 2 has one column for II and III


def _promise(content: bytes, frame: _Frame) -> int | None:
    """How many frames a header frame promises (0 if it does not say); None of a frame of audio."""
    if frame.header.layer != 3:
        return None
    # A checksum may stand before the side information; writers disagree whether it counts.
    for skip in (4, 6):
        at = frame.start + skip + frame.header.side_bytes
        if content[at : at + 4] in (b"Xing", b"Info") and at + 12 <= frame.end:
            flags, count = struct.unpack_from(">II", content, at + 4)
            return count if flags & 1 else 0
    at = frame.start + 36
    if content[at : at + 4] == b"VBRI" and at + 18 <= frame.end:
        return int.from_bytes(content[at + 14 : at + 18], "big")
    return None


def _info_frame(content: bytes, audio: list[_Frame]) -> bytes:
    """A header frame that says how many frames follow: silence to whoever does not know it."""
    first = audio[0].header
    side = first.side_bytes
    mark = int.from_bytes(content[audio[0].start : audio[0].start + 4], "big")
    # Without checksum and padding, at a bitrate whose frames have room for the header.
    mark = (mark | 1 << 16) & ~(1 << 9)
    for bitrate in range(1, 15):
        bits = mark & ~(15 << 12) | bitrate << 12
        header = _parsed(bits)
        assert header is not None
        assert header.bytes is not None
        if header.bytes >= 4 + side + 16:
            body = (
                bits.to_bytes(4, "big") + bytes(side) + b"Info" + struct.pack(">II", 1, len(audio))
            )
            return body.ljust(header.bytes, b"\0")
    raise AssertionError("every kind of frame has room at its highest bitrate")


def _room(audio: list[_Frame]) -> bytes:
    """Zeros after a stream of layer I or II, which has no header frame.

    A decoder divides the bytes by the length of a frame and stops there, so that number must not
    be too small. It decodes no zeros.
    """
    longest = max(frame.end - frame.start for frame in audio)
    there = sum(frame.end - frame.start for frame in audio)
    return bytes(longest * (len(audio) + 1) - there)


def _is_tag(content: bytes, position: int) -> bool:
    return content[position : position + 3] in (b"TAG", b"ID3", b"APE", b"LYR")


def id3v2_bytes(content: bytes, position: int) -> int:
    """The length of the ID3v2 tag at `position`, 0 if there is none."""
    head = content[position : position + 10]
    if len(head) < 10 or head[:3] != b"ID3" or any(byte & 0x80 for byte in head[6:]):
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return 10 + size + (10 if head[5] & 0x10 else 0)
