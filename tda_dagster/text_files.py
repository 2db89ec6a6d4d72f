"""Decoding text files that users write: UTF-8, and what the file is where it is not UTF-8.

What belongs here: recognising other encodings and other kinds of file, and the hint for each.
"""

import re

from tda_dagster.errors import TdaError

_BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_OTHER_FILES = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3\x00", "an SQLite database"),
)
_SAMPLE = 256
_LINE = 4_096
_MANY = 0.3
_FEW = 0.05


def decoded(content: bytes, name: str, what: str) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    `name` is the file in messages and `what` is what it should be ("the manifest"). Raises
    `TdaError` for another encoding, naming UTF-16 and UTF-32, and for files that are no text.
    """
    for start, kind in _OTHER_FILES:
        if content.startswith(start):
            raise TdaError(f"{name}: {what} must be UTF-8 text, but this file is {kind}.")
    encoding = wide_encoding(content)
    if encoding is not None:
        raise TdaError(
            f"{name}: {what} is {encoding}, not UTF-8; convert it: "
            f"iconv -f {encoding} -t UTF-8 old > new{_of_tabs(content, encoding)}"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        # The bytes 0x80 to 0x9f are letters and quotes in Windows' encoding alone.
        windows = re.search(rb"[\x80-\x9f]", content) is not None
        raise TdaError(
            f"{name}: line {line} is not UTF-8 (byte {content[error.start]:#04x}); save {what} as "
            f"UTF-8, for example: iconv -f {'CP1252' if windows else 'LATIN1'} -t UTF-8 old > new"
        ) from error


def _of_tabs(content: bytes, encoding: str) -> str:
    """A further hint for Excel's "Unicode Text", which is a table with tabs."""
    first_line = content[:_LINE].decode(encoding, errors="replace").partition("\n")[0]
    if "\t" not in first_line:
        return ""
    return (
        ". Its columns are separated by tabs, not by commas: in Excel, save it as "
        "'CSV UTF-8 (comma delimited)' instead"
    )


def wide_encoding(content: bytes) -> str | None:
    """Return the name for iconv if the bytes are UTF-16 or UTF-32, with or without a byte order
    mark, else None.

    Without the mark they are recognised by their zero bytes, which Latin letters have in the same
    places; a zero byte is valid UTF-8, so decoding alone does not find them.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return encoding
    sample = content[:_SAMPLE]
    if len(sample) < 4:
        return None
    zeros = [sample[place::4].count(0) / len(sample[place::4]) for place in range(4)]
    many, few = [share > _MANY for share in zeros], [share < _FEW for share in zeros]
    if many[1] and many[2] and many[3] and few[0]:
        return "UTF-32LE"
    if many[0] and many[1] and many[2] and few[3]:
        return "UTF-32BE"
    if many[1] and many[3] and few[0] and few[2]:
        return "UTF-16LE"
    if many[0] and many[2] and few[1] and few[3]:
        return "UTF-16BE"
    return None
