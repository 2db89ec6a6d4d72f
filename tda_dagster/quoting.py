"""Quoting values in messages.

What belongs here: how a value that a user gave is shown in a sentence. A value can be of any size
(a setting of a gigabyte, a number of a million digits), so it is cut before it is formatted.
"""

from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import islice

_LENGTH = 80
_MEMBERS = 4
_DEPTH = 3
_EXACT_BITS = 1_000
_DIGITS_PER_BIT = 0.30103


def shown(value: object, length: int = _LENGTH) -> str:
    """Return `value` as it may stand in a sentence: quoted, without control characters, and at
    most `length` characters long. Takes constant time for a value of any size."""
    return _cut(_formatted(value, length, _DEPTH), length)


def named(name: object, length: int = _LENGTH) -> str:
    """Return a name as it is if it is printable and not long, else as `shown` has it."""
    if isinstance(name, str) and len(name) <= length and name.isprintable():
        return name
    return shown(name, length)


def listed(names: Iterable[object], most: int = 12) -> str:
    """Return the first `most` names, quoted, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(shown(name) for name in every[:most]) + more


def brief(error: object, length: int = 200) -> str:
    """Return the first line of a third party's error message, cut to `length` characters."""
    lines = str(error).strip().splitlines()
    return _cut(lines[0].strip() if lines else "no reason is given", length)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _formatted(value: object, length: int, depth: int) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return repr(value[: length + 1])
    if isinstance(value, bytes | bytearray):
        return f"bytes {bytes(value[: length + 1])!r}"
    if isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        bits = value.bit_length()
        if bits > _EXACT_BITS:
            return f"a number of about {int(bits * _DIGITS_PER_BIT) + 1:,} digits"
        return str(value)
    if isinstance(value, Decimal | date | time | timedelta):
        return str(value)
    if isinstance(value, Mapping):
        pairs = islice(value.items(), _MEMBERS)
        members = [
            f"{_formatted(key, length, depth - 1)}: {_formatted(inner, length, depth - 1)}"
            for key, inner in (pairs if depth else ())
        ]
        return _closed("{", members, len(value), "}")
    if isinstance(value, list | tuple | set | frozenset):
        some = islice(value, _MEMBERS) if depth else ()
        members = [_formatted(inner, length, depth - 1) for inner in some]
        return _closed("[", members, len(value), "]")
    return "a value of another kind"


def _closed(left: str, members: list[str], total: int, right: str) -> str:
    if total > len(members):
        members = [*members, "..."]
    return f"{left}{', '.join(members)}{right}"
