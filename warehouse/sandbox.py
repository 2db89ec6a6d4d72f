"""SQL of people, run so that it can read the warehouse and do nothing else.

What belongs here: the limits of one query and its answer, row by row. A query that is part of the
program goes through `warehouse.build.query`.
"""

import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from warehouse.build import Config, connect
from warehouse.tables import WarehouseError

_BATCH_ROWS = 1000
# DuckDB 1.5 ends the whole process when its log cannot be written to the file that it names.
_LOGS = re.compile("enable_logging", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """What one query may take: wall-clock seconds, GB of memory (nothing is put on disk), threads.

    The seconds end before the answer's last row has been read if reading takes that long.
    """

    seconds: float = 60.0
    memory_gb: float = 2.0
    threads: int = 2


@dataclass(frozen=True)
class Answer:
    """The names of an answer's columns and its rows, which are computed as they are read."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


@contextmanager
def ask(path: Path, sql: str, limits: Limits | None = None) -> Iterator[Answer]:
    """The answer to `sql`, whose rows can be read until the `with` block ends.

    The connection reads the database and reaches nothing else: no file, no other database, no
    extension, no network, and no setting can be changed.

    Raises WarehouseError, in one line, for SQL that is wrong or not allowed, and for a query that
    exceeds a limit; reading the rows raises it, too.
    """
    limits = limits or Limits()
    if not (math.isfinite(limits.seconds) and limits.seconds > 0):
        raise WarehouseError(f"a time limit of {limits.seconds} s: give a positive number")
    if _LOGS.search(sql):
        raise WarehouseError("a query cannot turn DuckDB's logging on")
    config: Config = {
        "memory_limit": f"{math.ceil(limits.memory_gb * 1000)}MB",
        "threads": limits.threads,
        "temp_directory": "",
    }
    expired = threading.Event()
    with connect(path, config) as connection:

        def end() -> None:
            expired.set()
            connection.interrupt()

        timer = threading.Timer(limits.seconds, end)
        timer.daemon = True
        timer.start()
        try:
            with _explained(limits, expired):
                connection.execute(sql)
            columns = tuple(name for name, *_ in connection.description or ())
            yield Answer(columns, _rows(connection, limits, expired) if columns else iter(()))
        finally:
            timer.cancel()


def _rows(
    connection: duckdb.DuckDBPyConnection, limits: Limits, expired: threading.Event
) -> Iterator[tuple[Any, ...]]:
    while True:
        with _explained(limits, expired):
            batch = connection.fetchmany(_BATCH_ROWS)
        if not batch:
            return
        yield from batch
        if expired.is_set():  # an interrupt between two batches ends neither
            raise _too_slow(limits)


@contextmanager
def _explained(limits: Limits, expired: threading.Event) -> Iterator[None]:
    """Inside the block DuckDB's errors become one line that says what to do."""
    try:
        yield
    except duckdb.Error as error:
        if expired.is_set():
            raise _too_slow(limits) from None
        said = " ".join(str(error).splitlines()[0].split())
        match error:
            case duckdb.OutOfMemoryException():
                raise WarehouseError(
                    f"the query needs more than {limits.memory_gb:g} GB of memory; ask for less, "
                    "or allow it more"
                ) from None
            case duckdb.PermissionException():
                raise WarehouseError(
                    "a query reads the warehouse and nothing else, no files, other databases or "
                    f"extensions: {said}"
                ) from None
            case _:
                raise WarehouseError(_with_place(str(error))) from None


def _with_place(said: str) -> str:
    """DuckDB's words without its drawing of where in the query the mistake is."""
    return " ".join(said.partition("\n\nLINE ")[0].split())


def _too_slow(limits: Limits) -> WarehouseError:
    return WarehouseError(
        f"the query was stopped after {limits.seconds:g} s; ask for less, or allow it more time"
    )
