"""Containers made of chunks: WAV (also RF64, BW64 and big-endian), AIFF, 8SVX, W64 and CAF.

Belongs here: walking the chunks up to the one that holds the audio, and comparing the size that it
declares with the bytes that are there.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tda_dagster.corpus.containers.stream import is_placeholder, require_bytes, with_number

_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_MPEG_FORMATS = {0x50, 0x55}


@dataclass(frozen=True)
class _Chunk:
    name: bytes
    start: int
    size: int


@dataclass(frozen=True)
class _Declared:
    """What a container says of its audio: where it starts, its size, and where that is written.

    `field` is the position and the layout of the number, `counted` how many bytes of the chunk's
    own header are counted in it.
    """

    start: int
    size: int
    field: tuple[int, str]
    counted: int = 0
    is_mpeg: bool = False


@dataclass(frozen=True)
class Sound:
    """A container with the true size of its audio, which lies at `start` ... `end`.

    `is_mpeg` says that the audio is a stream of MPEG frames.
    """

    content: bytes
    start: int
    end: int
    is_mpeg: bool


def read_chunked(content: bytes) -> Sound | None:
    """What a container of chunks holds.

    A size that its writer did not know, since it wrote to a pipe, is replaced by that of what is
    there. None if `content` is no such container, or has no chunk of audio. Raises
    `TruncatedError` where that chunk is longer than what is there.
    """
    declared = next(
        (
            walk(content)
            for marks, walk in _WALKS.items()
            if content[:4] in marks or content[:16] in marks
        ),
        None,
    )
    if declared is None:
        return None
    start, there = declared.start, len(content) - declared.start
    is_unknown = (
        not _is_chunk(content, start)
        if declared.size == 0
        else is_placeholder(declared.size, there)
    )
    if is_unknown:
        content = with_number(content, declared.field, there + declared.counted)
        return Sound(content, start, len(content), declared.is_mpeg)
    require_bytes(declared.size, there)
    return Sound(content, start, min(start + declared.size, len(content)), declared.is_mpeg)


def _riff(content: bytes) -> _Declared | None:
    order = ">" if content[:4] == b"RIFX" else "<"
    wide: tuple[int, int] | None = None
    is_mpeg = False
    for chunk in _chunks(content, 12, f"{order}4sI", even=True):
        if chunk.name == b"ds64" and chunk.start + 16 <= len(content):
            (size,) = struct.unpack_from("<Q", content, chunk.start + 8)
            wide = size, chunk.start + 8
        elif chunk.name == b"fmt " and chunk.start + 2 <= len(content):
            (tag,) = struct.unpack_from(f"{order}H", content, chunk.start)
            is_mpeg = tag in _MPEG_FORMATS
        elif chunk.name == b"data" and wide is not None and chunk.size == 0xFFFF_FFFF:
            return _Declared(chunk.start, wide[0], (wide[1], "<Q"), is_mpeg=is_mpeg)
        elif chunk.name == b"data":
            field = chunk.start - 4, f"{order}I"
            return _Declared(chunk.start, chunk.size, field, is_mpeg=is_mpeg)
    return None


def _form(content: bytes) -> _Declared | None:
    for chunk in _chunks(content, 12, ">4sI", even=True):
        if chunk.name in (b"SSND", b"BODY"):
            return _Declared(chunk.start, chunk.size, (chunk.start - 4, ">I"))
    return None


def _w64(content: bytes) -> _Declared | None:
    position = 40  # the GUID of the whole, its size, and the GUID of the kind
    while position + 24 <= len(content):
        name, tail, size = struct.unpack_from("<4s12sQ", content, position)
        if name == b"data" and tail == _W64_TAIL:
            return _Declared(position + 24, max(size - 24, 0), (position + 16, "<Q"), counted=24)
        position += max(24, (size + 7) // 8 * 8)
    return None


def _caf(content: bytes) -> _Declared | None:
    for chunk in _chunks(content, 8, ">4sq", even=False):
        if chunk.name == b"data":
            return _Declared(chunk.start, chunk.size, (chunk.start - 8, ">q"))
    return None


_WALKS: dict[tuple[bytes, ...], Callable[[bytes], _Declared | None]] = {
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


def _is_chunk(content: bytes, position: int) -> bool:
    """Whether a chunk begins here, or nothing: then the one before is empty indeed."""
    name = content[position : position + 4]
    if len(name) < 4:
        return True
    size = int.from_bytes(content[position + 4 : position + 8], "little")
    return bytes(name).isascii() and name.decode().isprintable() and position + size < len(content)
