"""`tda sql`: questions to the warehouse.

What belongs here: options and the forms in which an answer is printed. Heavy imports wait until a
command needs them.
"""

import csv
import io
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size

from tda_dagster.cli_workspace import open_workspace
from tda_dagster.errors import TdaError
from tda_dagster.terminal import Terminal, json_text, one_line, plain

if TYPE_CHECKING:
    from warehouse.sandbox import Answer

TABLE_ROWS = 200
_CELL_WIDTH = 60
_GAP = "  "


class Format(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the command of this module to `app`."""
    app.command()(sql)


def sql(
    query: Annotated[
        str | None, typer.Argument(help="A query, or the name of an example (see --examples).")
    ] = None,
    examples: Annotated[bool, typer.Option("--examples", help="List the example queries.")] = False,
    format: Annotated[
        Format, typer.Option("--format", help="A table, or all rows as CSV or JSON.")
    ] = Format.TABLE,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"Rows to print at most (a table: {TABLE_ROWS}, else all)."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Stop the query after so many seconds.")
    ] = 60.0,
    memory_gb: Annotated[
        float, typer.Option(min=0.1, help="Memory that the query may take, GB.")
    ] = 2.0,
) -> None:
    """Query the attribution warehouse with SQL. The query reads the warehouse and nothing else: no
    files, no other databases, no extensions."""
    from warehouse import build
    from warehouse.sandbox import Limits, ask

    console = Terminal(soft_wrap=True)
    if examples or query is None:
        for name in build.list_examples():
            title = build.example_sql(name).splitlines()[0].removeprefix("-- ")
            console.say((f"{name:<22}", "bold"), f" {title}")
        return
    text = build.example_sql(query) if query in build.list_examples() else query
    with ask(open_workspace().database, text, Limits(timeout, memory_gb)) as answer:
        match format:
            case Format.TABLE:
                _print_table(answer, limit or TABLE_ROWS, console)
            case Format.CSV:
                _print_csv(answer, limit)
            case Format.JSON:
                _print_json(answer, limit)


def _print_table(answer: "Answer", limit: int, console: Terminal) -> None:
    """As a table if that fits the width (without a terminal always), otherwise a block per row."""
    rows = list(itertools.islice(answer.rows, limit + 1))
    if not answer.columns or not rows:
        console.print("no rows")
        return
    if len(rows) == 1 and len(answer.columns) == 1:  # a long text, such as the data dictionary
        console.print(_text(rows[0][0]))
        return
    names = [one_line(name) for name in answer.columns]
    shown = [[one_line(_text(value)) for value in row] for row in rows[:limit]]
    cells = [[_cut(text) for text in row] for row in shown]
    widths = [max(map(cell_len, column)) for column in zip(names, *cells, strict=True)]
    whole = sum(widths) + len(_GAP) * (len(widths) - 1)
    if whole <= console.width or not console.is_terminal:
        lines = _table(names, cells, widths, [_is_number(c) for c in zip(*rows, strict=True)])
    else:
        lines = _blocks(names, shown, console.width)
    for line in lines:
        console.print(line)
    if len(rows) > limit:
        console.print(f"… these are the first {limit} rows; --limit shows more, --format csv all")


def _table(
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    widths: Sequence[int],
    numbers: Sequence[bool],
) -> Iterator[str]:
    def line(cells: Sequence[str]) -> str:
        aligned = (
            " " * (width - cell_len(cell)) + cell if number else set_cell_size(cell, width)
            for cell, width, number in zip(cells, widths, numbers, strict=True)
        )
        return _GAP.join(aligned).rstrip()

    yield line(names)
    yield _GAP.join("─" * width for width in widths)
    for row in rows:
        yield line(row)


def _blocks(names: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> Iterator[str]:
    label = max(map(cell_len, names))
    for number, row in enumerate(rows, start=1):
        yield set_cell_size(f"─ row {number} " + "─" * width, min(width, 40))
        for name, text in zip(names, row, strict=True):
            yield f"{set_cell_size(name, label)}{_GAP}{text}".rstrip()


def _print_csv(answer: "Answer", limit: int | None) -> None:
    """Bytes as they are into a file or a pipe; a terminal gets them escaped."""
    escaped = sys.stdout.isatty()
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    for row in itertools.chain([answer.columns], itertools.islice(answer.rows, limit)):
        writer.writerow([_exact(value) for value in row])
        sys.stdout.write(plain(line.getvalue()) if escaped else line.getvalue())
        line.seek(0)
        line.truncate()


def _print_json(answer: "Answer", limit: int | None) -> None:
    """An array of objects, a row each; what JSON cannot say (not a number) is null."""
    if len(set(answer.columns)) < len(answer.columns):
        raise TdaError("two columns have the same name; give one of them another with AS")
    separator = "[\n"
    for row in itertools.islice(answer.rows, limit):
        plain_row = {name: _jsonable(v) for name, v in zip(answer.columns, row, strict=True)}
        sys.stdout.write(separator + json_text(plain_row))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)


def _exact(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _jsonable(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): _jsonable(each) for key, each in value.items()}
        case list() | tuple():
            return [_jsonable(each) for each in value]
        case bytes():
            return value.hex()
        case _:
            return str(value)


def _cut(text: str) -> str:
    if cell_len(text) <= _CELL_WIDTH:
        return text
    return set_cell_size(text, _CELL_WIDTH - 1).rstrip() + "…"


def _is_number(values: Iterable[Any]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in known
    )
