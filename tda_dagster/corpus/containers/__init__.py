"""Containers: what an audio file declares of itself, compared with the bytes that are there.

A decoder believes a header, or takes a file that broke off for a shorter one. So every file is
walked here first: what it declares must be there, and what is there is counted. Nothing is decoded.
"""

from tda_dagster.corpus.containers.chunked import read_chunked
from tda_dagster.corpus.containers.headed import read_headed
from tda_dagster.corpus.containers.kinds import ForeignKind, foreign_kind
from tda_dagster.corpus.containers.mpeg import find_mpeg, id3v2_bytes, read_mpeg
from tda_dagster.corpus.containers.ogg import read_ogg
from tda_dagster.corpus.containers.stream import (
    ContainerError,
    DamagedError,
    Stream,
    TruncatedError,
)

__all__ = [
    "ContainerError",
    "DamagedError",
    "ForeignKind",
    "Stream",
    "TruncatedError",
    "foreign_kind",
    "read_container",
]


def read_container(content: bytes) -> list[Stream]:
    """The streams of a file, in order, for a decoder: one, or as many as a chained Ogg has.

    Tags before the audio are left out. A container that is not known here is one stream as it is.
    Raises `TruncatedError` where less is there than the container declares, and `DamagedError`
    where what is there cannot be one piece of audio.
    """
    start = 0
    while tag_bytes := id3v2_bytes(content, start):
        start += tag_bytes
    audio = content[start:] if start else content
    if audio.startswith(b"OggS"):
        return read_ogg(audio)
    sound = read_chunked(audio)
    if sound is not None:
        if sound.is_mpeg:
            frames = sound.content[sound.start : sound.end]
            first = find_mpeg(frames, 0)
            if first is not None:
                return [read_mpeg(frames, first)]
        return [Stream(sound.content)]
    audio = read_headed(audio)
    if foreign_kind(audio) is None and (first := find_mpeg(audio, 0)) is not None:
        return [read_mpeg(audio, first)]
    return [Stream(audio)]
