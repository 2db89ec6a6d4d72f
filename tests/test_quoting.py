"""Values in messages: short, on one line, and found in no time whatever their size."""

import datetime as dt
import time
from decimal import Decimal

import pytest

from tda_dagster.quoting import brief, listed, named, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        (None, "null"),
        (1.5, "1.5"),
        (True, "True"),
        ([1, "b"], "[1, 'b']"),
        ({"a": [1]}, "{'a': [1]}"),
        (list(range(9)), "[0, 1, 2, 3, ...]"),
        ([[[[1]]]], "[[[[...]]]]"),
        (Decimal("1.50"), "1.50"),
        (dt.date(1999, 1, 2), "1999-01-02"),
        (b"\x00", r"bytes b'\x00'"),
        (10**400, "a number of about 401 digits"),
        (object(), "a value of another kind"),
    ],
)
def test_plain_values(value: object, text: str) -> None:
    assert shown(value) == text


def test_any_value_is_short_and_fast_and_holds_no_control_character() -> None:
    bomb: object = "x"
    for _ in range(50):
        bomb = [bomb] * 50
    long = "\x1b[31m\n" * 10_000_000
    started = time.monotonic()
    for value in (bomb, long, {long: bomb}, [long] * 9, long.encode(), 7 ** (10**6), set("abcdef")):
        text = shown(value)
        assert len(text) <= 80
        assert text.isprintable()
    assert time.monotonic() - started < 2


def test_names_and_lists_of_them() -> None:
    assert named("draws") == "draws"
    assert named("\x1b[0m") == r"'\x1b[0m'"
    assert len(named("x" * 1_000_000)) == 80
    assert listed("abc", most=2) == "'a', 'b' and 1 more"


def test_the_first_line_of_a_foreign_error() -> None:
    assert brief(ValueError("bad\nand more")) == "bad"
    assert brief(ValueError("")) == "no reason is given"
    assert len(brief(ValueError("x" * 1000))) == 200
