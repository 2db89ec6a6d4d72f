"""Ogg (Vorbis, Opus, FLAC, Speex): pages, and the links of a chain.

Belongs here: finding where each link of a chain begins, and telling whether its end is there. A
decoder reads the first link only, so each is handed to it as a stream of its own.
"""

import struct
from dataclasses import dataclass, field

from tda_dagster.corpus.containers.stream import (
    ContainerError,
    DamagedError,
    Stream,
    TruncatedError,
)

_MARK = b"OggS"
_HEAD = struct.Struct("<4sBBqIIIB")
_FIRST, _LAST = 0x02, 0x04


@dataclass
class _Link:
    """One link of a chain: the streams that begin together, and what follows them."""

    start: int
    unfinished: set[int] = field(default_factory=set)
    streams: set[int] = field(default_factory=set)


def read_ogg(content: bytes) -> list[Stream]:
    """The links of an Ogg file, in order.

    Raises `TruncatedError` where the last page is incomplete or not marked as the last one of its
    stream, and `DamagedError` where bytes in between are no page.
    """
    links: list[_Link] = []
    position, in_head = 0, False
    while position < len(content):
        page = content[position : position + _HEAD.size]
        if page[: len(_MARK)] != _MARK[: len(page)]:
            if links and not links[-1].unfinished:
                break  # the audio is over: what follows may be a tag
            raise _no_page(content, position)
        if len(page) < _HEAD.size:
            raise TruncatedError("its last page is incomplete")
        _, _, flags, _, serial, _, _, segments = _HEAD.unpack(page)
        body = position + _HEAD.size + segments
        end = body + sum(content[position + _HEAD.size : body])
        if end > len(content) or body > len(content):
            raise TruncatedError("its last page is incomplete")
        if flags & _FIRST:
            if not in_head:
                links.append(_Link(position))
            in_head = True
            links[-1].streams.add(serial)
            links[-1].unfinished.add(serial)
        else:
            in_head = False
        if links and flags & _LAST:
            links[-1].unfinished.discard(serial)
        position = end
    if not links:
        raise DamagedError("its first page, which says what it holds, is not there")
    for number, link in enumerate(links, 1):
        if link.unfinished:
            part = f"part {number} of {len(links)}" if len(links) > 1 else "it"
            raise TruncatedError(f"{part} ends without a last page")
    starts = [link.start for link in links]
    return [
        Stream(content[start:end])
        for start, end in zip(starts, [*starts[1:], position], strict=True)
    ]


def _no_page(content: bytes, position: int) -> ContainerError:
    found = content.find(_MARK, position)
    if found < 0:
        return TruncatedError("its last page is not there")
    return DamagedError(f"{found - position} bytes in its course are no Ogg page")
