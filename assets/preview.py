"""What people see of an artifact in the Dagster UI: tables, curves, histograms, spectrograms."""

import base64
from typing import Any

import dagster as dg
import polars as pl

from tda_dagster.report import figures


def table(frame: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """A small frame as a Markdown table."""
    if frame.is_empty():
        return dg.MetadataValue.md("(none)")
    head = "| " + " | ".join(frame.columns) + " |\n|" + "---|" * frame.width
    lines = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in frame.iter_rows()]
    return dg.MetadataValue.md("\n".join([head, *lines]))


def picture(png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG, shown inline."""
    return dg.MetadataValue.md(f"![](data:image/png;base64,{base64.b64encode(png).decode()})")


def histogram(values: pl.Series, label: str) -> dg.MarkdownMetadataValue:
    return picture(figures.histogram(values.to_numpy(), label))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "" if value is None else str(value)
    for character in "|<>\n`":
        text = text.replace(character, " ")
    return text if len(text) <= 80 else text[:79] + "…"
