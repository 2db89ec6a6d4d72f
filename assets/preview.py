"""What people see of an artifact in the Dagster UI: tables, curves, histograms, spectrograms."""

import base64
import re
from typing import Any

import dagster as dg
import polars as pl

from tda_dagster.masking import masked
from tda_dagster.report import figures
from tda_dagster.terminal import one_line

_LONGEST = 80
_ACTIVE = re.compile(r"[\\`*_\[\]<>~$&#!@{}^=+]|:/|www\.|javascript:|data:", re.IGNORECASE)


def table(frame: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """A small frame as a Markdown table."""
    if frame.is_empty():
        return dg.MetadataValue.md("(none)")
    head = "| " + " | ".join(map(_cell, frame.columns)) + " |\n|" + "---|" * frame.width
    lines = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in frame.iter_rows()]
    return dg.MetadataValue.md("\n".join([head, *lines]))


def picture(png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG, shown inline."""
    return dg.MetadataValue.md(f"![](data:image/png;base64,{base64.b64encode(png).decode()})")


def histogram(values: pl.Series, label: str) -> dg.MarkdownMetadataValue:
    return picture(figures.histogram(values.to_numpy(), label))


def _cell(value: Any) -> str:
    """A value as one cell of a Markdown table, in which nothing is Markdown.

    Text with a character that Markdown or HTML would obey, or that looks like an address, becomes
    code: in code nothing is a link, an emphasis or a tag.
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    text = one_line("" if value is None else masked(str(value))).strip()
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    text = text.replace("|", "¦")  # parsers differ on a pipe in code in a table
    if not _ACTIVE.search(text):
        return text
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}"
