"""One spelling for every value, and one name for every sequence of bytes.

What belongs here: the canonical JSON that recipes, trees, refs and heads are written in, and the
sha256 that names them. Nothing here knows where bytes are kept.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tda_dagster.store.errors import StoreError

_DIGEST = re.compile(r"[0-9a-f]{64}")


def canonical_json(value: Any) -> bytes:
    """The only JSON spelling of `value`: UTF-8, keys sorted by code point, no spaces.

    Floats are written by `repr`, the shortest form that reads back as the same float64; so `1` and
    `1.0` differ, and so do `0.0` and `-0.0`. Tuples are written as lists.

    Raises `StoreError` naming the path of the key at fault for NaN, infinities, keys that are not
    strings, and anything JSON has no word for.
    """
    return json.dumps(
        _plain(value, ""),
        sort_keys=True,
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    ).encode()


def digest_of(data: bytes) -> str:
    """sha256 of `data`, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """sha256 of the file at `path`, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_digest(text: str) -> bool:
    """Whether `text` is a sha256 as we write it."""
    return _DIGEST.fullmatch(text) is not None


def require_digest(text: str, what: str) -> None:
    """Raise a `StoreError` that speaks of `what` unless `text` is a digest."""
    if not is_digest(text):
        raise StoreError(f"{what} is {text!r}, not a digest (64 hexadecimal digits, 0-9 and a-f)")


def _plain(value: Any, at: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, at)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _refusal(at, f"is {float(value)!r}, which JSON cannot write; use null instead")
        return float(value)
    if isinstance(value, Mapping):
        return {_key(key, at): _plain(item, _below(at, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{at}[{index}]") for index, item in enumerate(value)]
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise _refusal(at, f"is a {kind}; JSON has null, booleans, numbers, strings, lists, mappings")


def _text(value: str, at: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _refusal(at, f"is not valid Unicode ({error.reason}): {value!r}") from error
    return str.__str__(value)


def _key(key: Any, at: str) -> str:
    if not isinstance(key, str):
        raise _refusal(at, f"has the key {key!r}; keys must be strings")
    return _text(key, _below(at, key))


def _below(at: str, key: Any) -> str:
    return f"{at}.{key}" if at else str(key)


def _refusal(at: str, wrong: str) -> StoreError:
    return StoreError(f"{at or 'the value'} {wrong}")
