"""Values of a manifest's columns, from what the file formats and their writers make of them.

Belongs here: what counts as missing, and the text or number that a value stands for. The three
formats differ in types (CSV has text alone), and pandas turns a column with a missing value into
floats: both are evened out here, so that one dataset reads the same from all of them.
"""

import json
import math
from collections.abc import Collection, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal

from tda_dagster.corpus.rejects import RejectReason, shown

LONGEST_TEXT = 131_072
"""Characters of a value, as many as Python's `csv` reads in a field."""
LONGEST_ID = 1_000

_EXACT = 2**53
"""Whole numbers up to here have an exact float."""

_MISSING_WORDS = frozenset(
    ("nan", "-nan", "na", "n/a", "#n/a", "<na>", "nat", "null", "none"),
)


class BadValueError(Exception):
    """A value that its column cannot have."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def is_missing(value: object) -> bool:
    """Whether a value counts as not given: null, NaN, or blank text."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float | Decimal):
        return math.isnan(value)
    return value is None


def is_missing_word(value: object) -> bool:
    """Whether text is what programs write for a missing value: nan, NA, null, None and the like.

    In a column of free text such a word is kept: it may be a name.
    """
    return isinstance(value, str) and value.strip().lower() in _MISSING_WORDS


def text(record: Mapping[str, object], name: str) -> str | None:
    """Return the text of a column, or None where it is missing.

    Text is verbatim. A whole number is its digits, also where it is a float (101.0 is "101");
    dates and times have their ISO form. Raises `BadValueError` for all else.
    """
    value = record.get(name)
    if is_missing(value):
        return None
    if not isinstance(value, str) and not _names_something(value):
        hint = "; write the column as text" if isinstance(value, bytes | float) else ""
        raise BadValueError(
            RejectReason.WRONG_TYPE, f"{name} must be text, but is {shown(value)}{hint}"
        )
    found = _written(value)
    _check_text(found, name, LONGEST_ID if name == "track_id" else LONGEST_TEXT)
    return found


def choice(record: Mapping[str, object], name: str, choices: Collection[str]) -> str | None:
    """Return the text of a column that has few values, or None where it is missing; words for
    missing values count as missing. Raises `BadValueError` for another value."""
    found = text(record, name)
    if found is None or is_missing_word(found):
        return None
    if found not in choices:
        known = " or ".join(f"'{each}'" for each in choices)
        raise BadValueError(
            RejectReason.WRONG_VALUE, f"{name} must be {known}, but is {shown(found)}"
        )
    return found


def positive(record: Mapping[str, object], name: str) -> float | None:
    """Return the positive number of a column, or None where it is missing; words for missing
    values count as missing. Raises `BadValueError` for all else."""
    value = record.get(name)
    if is_missing(value) or is_missing_word(value):
        return None
    wrong_type = BadValueError(
        RejectReason.WRONG_TYPE, f"{name} must be a number, but is {shown(value)}"
    )
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise wrong_type
    if isinstance(value, str) and ("_" in value or len(value) > LONGEST_ID):
        raise wrong_type  # Python reads 1_0 as 10
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise wrong_type from None
    if not math.isfinite(number) or number <= 0:
        raise BadValueError(
            RejectReason.WRONG_VALUE, f"{name} must be a positive number, but is {shown(value)}"
        )
    return number


def extra(record: Mapping[str, object], known: Collection[str]) -> str:
    """Return the columns of a record that are not `known` as a JSON object of strings, sorted by
    name, without those that are missing.

    Numbers and dates are written as in `text`, other numbers in decimals, truth values as true and
    false, lists and objects as JSON. Raises `BadValueError` for text that UTF-8 cannot hold.
    """
    found: dict[str, str] = {}
    for name, value in record.items():
        if name in known or is_missing(value):
            continue
        _check_text(name, "a column's name", LONGEST_ID)
        found[name] = _written(value)
        _check_text(found[name], f"column {shown(name)}", LONGEST_TEXT)
    return json.dumps(found, ensure_ascii=False, sort_keys=True) if found else "{}"


def _is_unicode(value: str) -> bool:
    """Whether UTF-8 can hold a text: JSON lets lone surrogates through."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names_something(value: object) -> bool:
    """Whether a value that is not text can stand for a name: whole numbers that are exact, and
    dates and times."""
    if isinstance(value, float):
        return value.is_integer() and abs(value) <= _EXACT
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int | date | time) and not isinstance(value, bool)


def _written(value: object) -> str:
    """A value as text; a list or an object as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        return str(int(value)) if _names_something(value) else str(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, int | timedelta):
        return str(value)
    try:
        return json.dumps(_plain(value), ensure_ascii=False, sort_keys=True)
    except RecursionError:
        raise BadValueError(RejectReason.WRONG_TYPE, "a value is nested too deeply") from None


def _plain(value: object) -> object:
    """A value with nothing in it but what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes):
        return shown(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _written(value)


def _check_text(value: str, name: str, longest: int) -> None:
    if len(value) > longest:
        raise BadValueError(
            RejectReason.WRONG_VALUE,
            f"{name} is {len(value):,} characters long, at most {longest:,} are read",
        )
    if not _is_unicode(value):
        raise BadValueError(
            RejectReason.WRONG_VALUE, f"{name} is not valid Unicode text: {shown(value)}"
        )
