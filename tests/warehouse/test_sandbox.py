"""SQL of people reads the warehouse and does nothing else, within its limits."""

import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from warehouse.build import build, connect, query
from warehouse.sandbox import Limits, ask
from warehouse.tables import WarehouseError

Tables = dict[str, pl.DataFrame]
ENDLESS = "select count(*) from range(10000000000) a, range(1000) b"


@pytest.fixture
def database(tables: Tables, tmp_path: Path) -> Path:
    build(tmp_path / "w.duckdb", tables)
    return tmp_path / "w.duckdb"


def rows(database: Path, sql: str, limits: Limits | None = None) -> list[tuple[object, ...]]:
    with ask(database, sql, limits) as answer:
        return list(answer.rows)


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('{secret}')",
        "select * from read_text('{secret}')",
        "select * from read_blob('{secret}')",
        "select * from read_json('{secret}')",
        "select * from read_parquet('{secret}')",
        "select * from '{secret}'",
        "select * from glob('{folder}/*')",
        "select * from sniff_csv('{secret}')",
        "copy (select 1) to '{new}'",
        "copy dim_track from '{secret}'",
        "export database '{new}'",
        "import database '{folder}'",
        "attach '{new}'",
        "attach '{secret}' as other",
        "attach ':memory:' as other",
        "install httpfs",
        "load httpfs",
        "load '{new}'",
        "force install httpfs from community",
        "select * from read_csv('https://example.com/a.csv')",
        "select * from read_csv('s3://bucket/a.csv')",
        "create secret s (type s3)",
        "create table x (i int)",
        "insert into dim_track select * from dim_track",
        "delete from dim_track",
        "drop table dim_track",
        "update dim_track set title = 'x'",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "reset enable_external_access",
        "set memory_limit = '100GB'",
        "pragma memory_limit = '100GB'",
        "set temp_directory = '{folder}'",
        "set log_query_path = '{new}'",
        "pragma profiling_output = '{new}'",
        "call enable_logging(storage = 'file', storage_config = {{'path': '{new}'}}); select 1",
        "select 1; copy (select 1) to '{new}'",
        "prepare p as copy (select 1) to '{new}'; execute p",
        "with x as (select 1) select * from x, read_text('{secret}')",
        "create temp macro m() as table select * from read_text('{secret}'); select * from m()",
        "select * from query('select * from read_text(''{secret}'')')",
        "select getenv('HOME')",
        "select * from ENABLE_LOGGING(storage = 'file', storage_config = {{'path': '{new}'}})",
    ],
)
def test_nothing_but_the_warehouse_is_reached(database: Path, sql: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    before = database.read_bytes()
    present = sorted(tmp_path.iterdir())
    text = sql.format(secret=secret, folder=tmp_path, new=tmp_path / "new")
    with pytest.raises(WarehouseError) as caught:
        rows(database, text)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == present
    assert secret.read_text() == "a\n1\n"
    assert database.read_bytes() == before


def test_the_programs_own_queries_reach_no_file_either(database: Path, tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="disabled by configuration"):
        query(database, f"copy (select 1) to '{tmp_path / 'new'}'")


def test_questions_are_answered(database: Path) -> None:
    tracks = "create temp table t as select * from dim_track; select count(*) n from t"
    assert rows(database, tracks) == [(12,)]
    with ask(database, "select 1 as a, interval 1 day as b") as answer:
        assert answer.columns == ("a", "b")
        assert len(list(answer.rows)) == 1
    assert rows(database, "show tables")
    assert rows(database, "from v_query_summary")
    assert rows(database, "explain select 1")
    for nothing in ("", "-- a comment", "set variable x = 1"):
        assert rows(database, nothing) == []


def count(database: Path, sql: str) -> int:
    with ask(database, sql, Limits(seconds=0.3)) as answer:
        return sum(1 for _ in answer.rows)


@pytest.mark.parametrize("sql", [ENDLESS, "select * from range(100000000000)"])
def test_a_query_ends_in_time(database: Path, sql: str) -> None:
    start = time.monotonic()
    with pytest.raises(WarehouseError, match=r"stopped after 0\.3 s"):
        count(database, sql)
    assert time.monotonic() - start < 5


def test_the_time_of_one_query_is_not_that_of_the_next(database: Path) -> None:
    for _ in range(3):
        assert rows(database, "select 1", Limits(seconds=0.2)) == [(1,)]
    time.sleep(0.3)
    assert rows(database, "select 1", Limits(seconds=5)) == [(1,)]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(database: Path, seconds: float) -> None:
    with pytest.raises(WarehouseError, match="positive"):
        rows(database, "select 1", Limits(seconds=seconds))


def test_memory_is_bounded_and_nothing_is_put_on_disk(database: Path) -> None:
    present = sorted(database.parent.iterdir())
    sql = "select i, count(*) from range(100000000) t(i) group by i order by i desc"
    with pytest.raises(WarehouseError, match=r"more than 0\.1 GB of memory"):
        rows(database, sql, Limits(memory_gb=0.1))
    assert sorted(database.parent.iterdir()) == present


def test_who_holds_the_database_is_named_with_what_to_do(database: Path) -> None:
    code = (
        f"import duckdb, sys\nc = duckdb.connect({str(database)!r})\n"
        "print('open', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(WarehouseError) as caught:
            connect(database)
        holder.communicate("")
    said = str(caught.value)
    assert f"process {holder.pid} (python" in said
    assert f"duckdb -readonly {database}" in said
    assert "\n" not in said
