"""What a section of the page is made of. How it looks is in `templates/bench.html`."""

from dataclasses import dataclass

from tda_dagster.report.bench.contents import Method
from tda_dagster.report.experiment import Chart, Table


@dataclass(frozen=True)
class Cell:
    """A number as it is shown, what stands beneath it, and whether it is its column's best."""

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A method with its cells in the order of the columns."""

    method: Method
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Ranking:
    """All methods by all figures that are known of any; `groups` are headings over (heading)s."""

    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Section:
    """A part of the page: paragraphs, then charts (`wide`: as wide as the page), tables, SQL."""

    title: str
    paragraphs: tuple[str, ...]
    charts: tuple[Chart, ...] = ()
    wide: bool = False
    ranking: Ranking | None = None
    tables: tuple[Table, ...] = ()
    sql: str = ""
