"""Containers made of chunks: WAV (also RF64, BW64 and big-endian), AIFF, 8SVX, W64 and CAF.

Belongs here: walking the chunks up to the one that holds the audio, and comparing the size that it
declares with the bytes that are there.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tda_dagster.corpus.containers.stream import is_placeholder, require_bytes

_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_MPEG_FORMATS = {0x50, 0x55}


@dataclass(frozen=True)
class _Chunk:
    name: bytes
    start: int
    size: int


@dataclass(frozen=True)
class Sound:
    """Where the audio of a container lies; `is_mpeg` says that it is a stream of MPEG frames."""

    start: int
    end: int
    is_mpeg: bool = False


def read_chunked(content: bytes) -> Sound | None:
    """Where the audio is, in a container of chunks.

    None if `content` is no such container, or has no chunk of audio. Raises `TruncatedError` where
    that chunk is longer than what is there. A size that the writer did not know is no promise.
    """
    for marks, walk in _WALKS.items():
        if content[:4] in marks or content[:16] in marks:
            return walk(content)
    return None


def _riff(content: bytes) -> Sound | None:
    order = ">" if content[:4] == b"RIFX" else "<"
    wide: int | None = None
    is_mpeg = False
    for chunk in _chunks(content, 12, f"{order}4sI", even=True):
        if chunk.name == b"ds64" and chunk.start + 16 <= len(content):
            (wide,) = struct.unpack_from("<Q", content, chunk.start + 8)
        elif chunk.name == b"fmt " and chunk.start + 2 <= len(content):
            (tag,) = struct.unpack_from(f"{order}H", content, chunk.start)
            is_mpeg = tag in _MPEG_FORMATS
        elif chunk.name == b"data":
            size = wide if wide is not None and chunk.size == 0xFFFF_FFFF else chunk.size
            return _sound(content, chunk.start, size, is_mpeg)
    return None


def _form(content: bytes) -> Sound | None:
    for chunk in _chunks(content, 12, ">4sI", even=True):
        if chunk.name in (b"SSND", b"BODY"):
            return _sound(content, chunk.start, chunk.size)
    return None


def _w64(content: bytes) -> Sound | None:
    position = 40  # the GUID of the whole, its size, and the GUID of the kind
    while position + 24 <= len(content):
        name, tail, size = struct.unpack_from("<4s12sQ", content, position)
        if name == b"data" and tail == _W64_TAIL:
            return _sound(content, position + 24, max(size - 24, 0))
        position += max(24, (size + 7) // 8 * 8)
    return None


def _caf(content: bytes) -> Sound | None:
    for chunk in _chunks(content, 8, ">4sq", even=False):
        if chunk.name == b"data":
            return _sound(content, chunk.start, chunk.size)
    return None


_WALKS: dict[tuple[bytes, ...], Callable[[bytes], Sound | None]] = {
    (b"RIFF", b"RIFX", b"RF64", b"BW64"): _riff,
    (b"FORM",): _form,
    (_W64_RIFF,): _w64,
    (b"caff",): _caf,
}


def _chunks(content: bytes, position: int, layout: str, *, even: bool) -> Iterator[_Chunk]:
    head = struct.calcsize(layout)
    while position + head <= len(content):
        name, size = struct.unpack_from(layout, content, position)
        yield _Chunk(name, position + head, size)
        position += head + max(size, 0)
        position += size % 2 if even else 0


def _sound(content: bytes, start: int, size: int, is_mpeg: bool = False) -> Sound:
    there = len(content) - start
    unknown = not _is_chunk(content, start) if size == 0 else is_placeholder(size, there)
    if unknown:
        return Sound(start, len(content), is_mpeg)
    require_bytes(size, there)
    return Sound(start, min(start + size, len(content)), is_mpeg)


def _is_chunk(content: bytes, position: int) -> bool:
    """Whether a chunk begins here, or nothing: then the one before is empty indeed."""
    name = content[position : position + 4]
    if len(name) < 4:
        return True
    size = int.from_bytes(content[position + 4 : position + 8], "little")
    return bytes(name).isascii() and name.decode().isprintable() and position + size < len(content)
