"""Files that the decoder does not read, named, so that a message can say what a file is."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ForeignKind:
    """What a file is, in words; `demuxer` is FFmpeg's name for an audio format, else None."""

    name: str
    demuxer: str | None


_AUDIO = {
    "M4A/MP4 (AAC or ALAC)": ("mov", rb".{4}ftyp"),
    "AAC (ADTS)": ("aac", rb"\xff[\xf0\xf1\xf8\xf9]"),
    "WMA/ASF": ("asf", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    "Matroska/WebM": ("matroska", rb"\x1a\x45\xdf\xa3"),
    "WavPack": ("wv", rb"wvpk"),
    "Monkey's Audio": ("ape", rb"MAC "),
    "Musepack": ("mpc8", rb"MPCK"),
    "Musepack 7": ("mpc", rb"MP\+"),
    "True Audio": ("tta", rb"TTA[12]"),
    "DSD": ("dsf", rb"DSD "),
    "DSDIFF": ("iff", rb"FRM8"),
}
_NO_AUDIO = {
    "MIDI, notes without audio": rb"MThd",
    "a Git LFS pointer (git lfs pull fetches the file itself)": rb"version https://git-lfs",
    "a web page": rb"\s*<(!doctype html|html|head)",
    "XML": rb"\s*<\?xml",
    "JSON": rb"\s*\{\s*\"",
    "a PDF document": rb"%PDF-",
    "a picture": rb"(\x89PNG|\xff\xd8\xff|GIF8)",
    "a ZIP archive": rb"PK\x03\x04",
    "a gzip archive": rb"\x1f\x8b",
}
_MAGIC = tuple(
    (ForeignKind(name, demuxer), re.compile(pattern, re.DOTALL | re.IGNORECASE))
    for name, (demuxer, pattern) in [
        *_AUDIO.items(),
        *((name, (None, pattern)) for name, pattern in _NO_AUDIO.items()),
    ]
)


def foreign_kind(content: bytes) -> ForeignKind | None:
    """What a file is that the decoder does not read, from its first bytes; None if unknown."""
    head = content[:64]
    return next((kind for kind, magic in _MAGIC if magic.match(head)), None)
