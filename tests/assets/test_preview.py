"""Titles in the tables that Dagster shows are text: no Markdown, no HTML, no links."""

import re

import polars as pl
import pytest

from assets.preview import table

HOSTILE = [
    "[click](javascript:alert(1))",
    "![](https://evil.example/pixel.png)",
    "<img src=x onerror=alert(1)>",
    "</td></table><script>alert(1)</script>",
    "https://evil.example",
    "www.evil.example",
    "me@evil.example",
    "**bold** _it_ ~~gone~~",
    "`code` ``more``",
    "` | `",
    "a | b | c",
    "a\n| b |\n\n# heading",
    "\\| \\",
    "&lt;b&gt;",
    "$x^2$",
    "\x1b]0;x\x07\u202e",
    "javascript:alert(1)",
    "*" * 500,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_cell_is_one_cell_of_code(text: str) -> None:
    shown = table(pl.DataFrame({"title": [text], "n": [1]})).md_str
    head, rule, row = shown.split("\n")
    assert (head, rule) == ("| title | n |", "|---|---|")
    cell, number = row.removeprefix("| ").removesuffix(" |").split(" | ")
    assert number == "1"
    if "|" in text and not re.search(r"[\\`\n]", text):
        assert cell == "a ¦ b ¦ c"
        return
    fence = re.match("`+", cell)
    assert fence is not None
    inside = cell.removeprefix(f"{fence[0]} ").removesuffix(f" {fence[0]}")
    assert len(inside) <= 80 < len(text) + 80
    assert fence[0] not in re.findall("`+", inside)
    assert not set(inside) & set("|\x1b\n\u202e")


def test_hostile_names_of_columns_are_text() -> None:
    shown = table(pl.DataFrame({"a|b": [1], "<b>": [2]})).md_str
    assert shown.split("\n")[0] == "| a¦b | ` <b> ` |"


def test_secrets_are_masked_and_other_text_is_left_alone() -> None:
    frame = pl.DataFrame(
        {"title": ["Ach wie flüchtig, BWV 26.6 (live)", "https://u:p@h/?sig=1"], "x": [0.5, None]}
    )
    assert table(frame).md_str.split("\n")[2:] == [
        "| Ach wie flüchtig, BWV 26.6 (live) | 0.5 |",
        "| ` https://***@h/?sig=*** ` |  |",
    ]
