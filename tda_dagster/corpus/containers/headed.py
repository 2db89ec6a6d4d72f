"""Containers with one header before the audio: AU, NIST, AVR, and the blocks of VOC and SDS."""

import re
import struct

from tda_dagster.corpus.containers.stream import is_placeholder, require_bytes, with_number

_VOC = b"Creative Voice File\x1a"
_VOC_SOUND_BLOCKS = {1, 2, 9}
_NIST = b"NIST_1A\n"
_AVR_HEADER_BYTES = 128


def read_headed(content: bytes) -> bytes:
    """The container, with the true size of its audio where its writer did not know it.

    Raises `TruncatedError` if less is there than it declares. Other containers stay as they are.
    """
    if content[:4] in (b".snd", b"dns.") and len(content) >= 12:
        order = ">" if content[:4] == b".snd" else "<"
        start, size = struct.unpack_from(f"{order}II", content, 4)
        if _is_unknown(content, start, size):
            return with_number(content, (8, f"{order}I"), len(content) - start)
        _require(content, start, size)
    elif content.startswith(_NIST):
        _check_nist(content)
    elif content.startswith(_VOC):
        _check_voc(content)
    elif content[:2] == b"\xf0\x7e" and content[3:4] == b"\x01" and len(content) >= 21:
        _check_sds(content)
    elif content[:4] == b"2BIT" and len(content) >= _AVR_HEADER_BYTES:
        channels = 2 if content[12:14] == b"\xff\xff" else 1
        (bits,) = struct.unpack_from(">H", content, 14)
        (frames,) = struct.unpack_from(">I", content, 26)
        _require(content, _AVR_HEADER_BYTES, frames * channels * bits // 8)
    return content


def _check_nist(content: bytes) -> None:
    header_bytes = re.match(rb"\s*(\d{1,9})\s", content[len(_NIST) : len(_NIST) + 16])
    if header_bytes is None:
        return
    start = int(header_bytes[1])
    fields = dict(re.findall(rb"^(\w+) -i (\d{1,12})\s*$", content[:start], re.MULTILINE))
    if b"sample_count" in fields:
        names = (b"sample_count", b"sample_n_bytes", b"channel_count")
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


def _check_sds(content: bytes) -> None:
    bits, samples = content[6], content[10] | content[11] << 7 | content[12] << 14
    per_packet = 120 // max(2, -(-bits // 7))
    _require(content, 21, -(-samples // per_packet) * 127)


def _require(content: bytes, start: int, size: int) -> None:
    if not _is_unknown(content, start, size):
        require_bytes(size, max(len(content) - start, 0))


def _is_unknown(content: bytes, start: int, size: int) -> bool:
    there = len(content) - start
    return there > 0 and (size == 0 or is_placeholder(size, there))
