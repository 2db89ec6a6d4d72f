"""Building the warehouse from frames, atomically, and querying it.

A build goes into a new file beside the database and replaces it by a rename: readers are never
blocked and never see half of it.
"""

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import duckdb
import polars as pl

from tda_dagster.store.staging import Staging
from warehouse.dictionary import data_dictionary
from warehouse.tables import BY_NAME, TABLES, WarehouseError, empty, validate

Config = dict[str, str | bool | int | float | list[str]]

# Otherwise a misspelt table name would find a Python variable of that name.
_OWN_TABLES_ONLY: Config = {"python_enable_replacements": False}
READ_ONLY: Config = {
    **_OWN_TABLES_ONLY,
    "enable_external_access": False,
    "allow_community_extensions": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_persistent_secrets": False,
    "lock_configuration": True,
}
"""A reader's connection: the database file and nothing else, whatever the SQL says. What a view
needs on disk while it is computed goes beside the database."""
# What differs between two equal studies: run ids, times.
_RUN_TABLES = {"dim_artifact", "lineage_edge", "dim_asset_state"}


@dataclass(frozen=True)
class BuildReport:
    """Rows per table, and a digest of the content that does not depend on runs."""

    rows: dict[str, int]
    content_digest: str


def build(path: Path, tables: Mapping[str, pl.DataFrame | Sequence[Path]]) -> BuildReport:
    """Build the database at `path` from frames or Parquet files by table name; tables not given
    are empty.

    Raises WarehouseError, naming table, column and row, for data that does not fit; the database
    that was there stays untouched then.
    """
    unknown = sorted(set(tables) - set(BY_NAME))
    if unknown:
        raise WarehouseError(f"{unknown[0]}: no such table; tables: {', '.join(BY_NAME)}")
    given = {name: _frame(name, table) for name, table in tables.items()}
    frames = {t.name: validate(t.name, given.get(t.name, empty(t.name))) for t in TABLES}
    _check_references(frames)
    with building(path).folder() as folder:
        fresh = folder / path.name
        with duckdb.connect(str(fresh), config=_OWN_TABLES_ONLY) as connection:
            _fill(connection, frames)
        # A log left by a crashed writer would be replayed into the new database.
        path.with_name(path.name + ".wal").unlink(missing_ok=True)
        fresh.replace(path)
    return BuildReport({n: f.height for n, f in frames.items()}, content_digest(frames))


def building(path: Path) -> Staging:
    """Where the database at `path` is built, on its disk."""
    return Staging(path.parent / ".build")


def _frame(name: str, table: pl.DataFrame | Sequence[Path]) -> pl.DataFrame:
    """The table as a frame; several Parquet files are its parts."""
    if isinstance(table, pl.DataFrame):
        return table
    parts: list[pl.DataFrame] = []
    for file in table:
        try:
            part = pl.read_parquet(file)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise WarehouseError(f"{name}: {file} cannot be read as Parquet: {error}") from None
        if parts and part.schema != parts[0].schema:
            raise WarehouseError(f"{name}: {file} has other columns or types than {table[0]}")
        parts.append(part)
    return pl.concat(parts) if parts else empty(name)


def content_digest(tables: Mapping[str, pl.DataFrame]) -> str:
    """sha256 over the rows of all tables that two equal studies share: no run ids, no times."""
    digest = hashlib.sha256()
    for name in sorted(set(tables) - _RUN_TABLES):
        frame = validate(name, tables[name])
        digest.update(name.encode())
        digest.update(frame.write_csv().encode())
    return digest.hexdigest()


def _check_references(frames: Mapping[str, pl.DataFrame]) -> None:
    for table in TABLES:
        for column in table.columns:
            if column.references is None:
                continue
            other, key = column.references
            values = frames[table.name].select(column.name).drop_nulls().unique()
            orphans = values.join(
                frames[other].select(key), left_on=column.name, right_on=key, how="anti"
            )
            if orphans.height:
                examples = ", ".join(sorted(orphans[column.name].to_list())[:3])
                raise WarehouseError(
                    f"{table.name}.{column.name}: {orphans.height} values are not in {other}, "
                    f"e.g. {examples}"
                )


def _fill(connection: duckdb.DuckDBPyConnection, frames: Mapping[str, pl.DataFrame]) -> None:
    connection.begin()
    for table in TABLES:
        connection.execute(table.ddl())
        connection.register("incoming", frames[table.name].to_arrow())
        connection.execute(f"INSERT INTO {table.name} SELECT * FROM incoming")
        connection.unregister("incoming")
        connection.execute(f"COMMENT ON TABLE {table.name} IS {_quoted(table.description)}")
        for column in table.columns:
            target = f"{table.name}.{column.name}"
            connection.execute(f"COMMENT ON COLUMN {target} IS {_quoted(column.comment)}")
    connection.execute("CREATE TABLE data_dictionary (markdown VARCHAR)")
    connection.execute("INSERT INTO data_dictionary VALUES (?)", [data_dictionary()])
    _create_views(connection)
    for view, text in _views().items():
        connection.execute(f"COMMENT ON VIEW {view} IS {_quoted(_header(text))}")
    connection.commit()


def _create_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Create all views, those that others need first."""
    waiting = _views()
    names = set(waiting)
    done: set[str] = set()
    while waiting:
        ready = [
            name
            for name, text in sorted(waiting.items())
            if all(n in done or n not in text for n in names - {name})
        ]
        if not ready:
            raise WarehouseError(f"views need each other: {', '.join(sorted(waiting))}")
        for name in ready:
            connection.execute(waiting.pop(name))
            done.add(name)


def _views() -> dict[str, str]:
    """The SQL of each view."""
    return {f.name.removesuffix(".sql"): f.read_text(encoding="utf-8") for f in _sql_files("views")}


def _header(text: str) -> str:
    """The comment that a `.sql` file begins with, as one line."""
    lines = itertools.takewhile(lambda line: line.startswith("--"), text.splitlines())
    return " ".join(line.removeprefix("--").strip() for line in lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def list_examples() -> list[str]:
    """Names of the example queries."""
    return sorted(f.name.removesuffix(".sql") for f in _sql_files("examples"))


def example_sql(name: str) -> str:
    """The text of an example query."""
    return (files("warehouse") / "examples" / f"{name}.sql").read_text(encoding="utf-8")


def _sql_files(folder: str):  # type: ignore[no-untyped-def]  # importlib's Traversable
    return [f for f in (files("warehouse") / folder).iterdir() if f.name.endswith(".sql")]


def connect(path: Path, limits: Config | None = None) -> duckdb.DuckDBPyConnection:
    """A read-only connection that reaches no other file and whose settings are fixed; `limits` are
    settings of DuckDB beside those.

    Raises WarehouseError when there is no database to read, or when another process writes to it.
    """
    if not path.exists():
        raise WarehouseError(
            f"{path}: there is no warehouse yet; `tda run` builds it (or `tda materialize "
            "warehouse` when scores exist)"
        )
    try:
        return duckdb.connect(str(path), read_only=True, config=READ_ONLY | (limits or {}))
    except duckdb.Error as error:
        said = " ".join(str(error).split())
        if held := _LOCKED.search(said):
            process = f"process {held['pid']} ({Path(held['command']).name})"
            raise WarehouseError(
                f"{path}: {process} has it open for writing; close it there, or open it there "
                f"with `duckdb -readonly {path}`: any number of readers go together"
            ) from None
        raise WarehouseError(f"{path}: cannot be opened: {said}") from None


_LOCKED = re.compile(r"Conflicting lock is held in (?P<command>.+?) \(PID (?P<pid>\d+)\)")


def read_tables(path: Path) -> dict[str, pl.DataFrame]:
    """All base tables of a built database by name; `content_digest` compares two of them."""
    return {t.name: query(path, f"SELECT * FROM {t.name}") for t in TABLES}


def query(path: Path, sql: str, parameters: list[object] | None = None) -> pl.DataFrame:
    """The answer to a query; raises WarehouseError with DuckDB's words for a wrong one."""
    with connect(path) as connection:
        try:
            answer = connection.execute(sql, parameters or [])
        except duckdb.Error as error:
            raise WarehouseError(f"{error}") from None
        if answer is None or not answer.description:
            return pl.DataFrame()
        for name, kind, *_ in answer.description:
            if "INTERVAL" in str(kind):  # polars has no such type, and panics
                raise WarehouseError(f"column {name} is an interval: cast it, e.g. {name}::VARCHAR")
        try:
            return pl.DataFrame(answer.arrow())
        except pl.exceptions.DuplicateError as error:
            raise WarehouseError(f"{error}; give one of them another name with AS") from None
        except duckdb.Error as error:
            raise WarehouseError(f"{error}") from None
