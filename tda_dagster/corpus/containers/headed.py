"""Containers with one header before the audio: AU, NIST SPHERE, AVR, and the blocks of VOC."""

import re
import struct

from tda_dagster.corpus.containers.stream import is_placeholder, require_bytes

_VOC = b"Creative Voice File\x1a"
_VOC_SOUND_BLOCKS = {1, 2, 9}
_NIST = b"NIST_1A\n"
_AVR_HEADER_BYTES = 128


def check_headed(content: bytes) -> None:
    """Raise `TruncatedError` if `content` is such a container and less is there than it declares.

    A size that the writer did not know is no promise. Nothing happens for other containers.
    """
    if content[:4] in (b".snd", b"dns.") and len(content) >= 12:
        order = ">" if content[:4] == b".snd" else "<"
        start, size = struct.unpack_from(f"{order}II", content, 4)
        _require(content, start, size)
    elif content.startswith(_NIST):
        _check_nist(content)
    elif content.startswith(_VOC):
        _check_voc(content)
    elif content[:4] == b"2BIT" and len(content) >= _AVR_HEADER_BYTES:
        channels = 2 if content[12:14] == b"\xff\xff" else 1
        (bits,) = struct.unpack_from(">H", content, 14)
        (frames,) = struct.unpack_from(">I", content, 26)
        _require(content, _AVR_HEADER_BYTES, frames * channels * bits // 8)


def _check_nist(content: bytes) -> None:
    header_bytes = re.match(rb"\s*(\d{1,9})\s", content[len(_NIST) : len(_NIST) + 16])
    if header_bytes is None:
        return
    start = int(header_bytes[1])
    fields = dict(re.findall(rb"^(\w+) -i (\d{1,12})\s*$", content[:start], re.MULTILINE))
    names = (b"sample_count", b"sample_n_bytes", b"channel_count")
    if all(name in fields for name in names[:2]):
        count, width, channels = (int(fields.get(name, b"1")) for name in names)
        _require(content, start, count * width * channels)


def _check_voc(content: bytes) -> None:
    (position,) = struct.unpack_from("<H", content.ljust(26, b"\0"), 20)
    while 0 < position <= len(content) - 4:
        kind, size = (
            content[position],
            int.from_bytes(content[position + 1 : position + 4], "little"),
        )
        if kind == 0:
            return
        if kind in _VOC_SOUND_BLOCKS:
            _require(content, position + 4, size)
        position += 4 + size


def _require(content: bytes, start: int, size: int) -> None:
    there = max(len(content) - start, 0)
    if not is_placeholder(size, there):
        require_bytes(size, there)
