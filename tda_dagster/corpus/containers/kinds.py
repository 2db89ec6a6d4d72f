"""Files that the decoder does not read, named, so that a message can say what a file is."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ForeignKind:
    """What a file is, in words; `is_audio` says whether a converter makes audio of it."""

    name: str
    is_audio: bool


_AUDIO = {
    "M4A/MP4 (AAC or ALAC)": rb".{4}ftyp",
    "AAC (ADTS)": rb"\xff[\xf0\xf1\xf8\xf9]",
    "WMA/ASF": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "Matroska/WebM": rb"\x1a\x45\xdf\xa3",
    "WavPack": rb"wvpk",
    "Monkey's Audio": rb"MAC ",
    "Musepack": rb"(MPCK|MP\+)",
    "True Audio": rb"TTA[12]",
    "DSD": rb"(DSD |FRM8)",
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
    (ForeignKind(name, is_audio), re.compile(pattern, re.DOTALL | re.IGNORECASE))
    for kinds, is_audio in ((_AUDIO, True), (_NO_AUDIO, False))
    for name, pattern in kinds.items()
)


def foreign_kind(content: bytes) -> ForeignKind | None:
    """What a file is that the decoder does not read, from its first bytes; None if unknown."""
    head = content[:64]
    return next((kind for kind, magic in _MAGIC if magic.match(head)), None)
