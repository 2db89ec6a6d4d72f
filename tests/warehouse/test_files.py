"""The database as a file: what it is built from, what lies beside it, what opens it."""

import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest

from warehouse.build import build, content_digest, example_sql, list_examples, query, read_tables
from warehouse.tables import BY_NAME, TABLES, WarehouseError, validate

Tables = dict[str, pl.DataFrame]


def test_parquet_files_are_as_good_as_frames(tables: Tables, tmp_path: Path) -> None:
    files = {}
    for name, frame in tables.items():
        half = frame.height // 2
        parts = [tmp_path / f"{name}-{n}.parquet" for n in range(2)]
        frame.head(half).write_parquet(parts[0])
        frame.tail(frame.height - half).write_parquet(parts[1])
        files[name] = parts
    of_files = build(tmp_path / "files.duckdb", files)
    assert of_files == build(tmp_path / "frames.duckdb", tables)


def test_wrong_parquet_files_are_named(tables: Tables, tmp_path: Path) -> None:
    scores = tmp_path / "scores.parquet"
    tables["fct_score"].write_parquet(scores)
    other = tmp_path / "other.parquet"
    tables["fct_score"].drop("rank").write_parquet(other)
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(scores.read_bytes()[:-20])
    for wrong in (other, torn, tmp_path / "none.parquet"):
        with pytest.raises(WarehouseError, match=f"fct_score: .*{wrong.name}"):
            build(tmp_path / "w.duckdb", tables | {"fct_score": [scores, wrong]})


def test_the_log_of_a_crashed_writer_stays_out_of_the_new_database(
    tables: Tables, tmp_path: Path
) -> None:
    path = tmp_path / "w.duckdb"
    build(path, tables)
    crash = (
        "import duckdb, os\n"
        f"c = duckdb.connect({str(path)!r})\n"
        "c.execute('PRAGMA disable_checkpoint_on_shutdown')\n"
        "c.execute('insert into share_rule values (9, 9, 0, 0, 0)')\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", crash], check=False)
    assert path.with_name("w.duckdb.wal").exists()
    build(path, tables)
    assert query(path, "select threshold_z from share_rule")["threshold_z"].to_list() == [2.0]
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["w.duckdb"]


def test_what_is_read_back_has_the_digest_that_was_reported(tables: Tables, tmp_path: Path) -> None:
    report = build(tmp_path / "w.duckdb", tables)
    back = read_tables(tmp_path / "w.duckdb")
    assert content_digest(back) == report.content_digest
    for name, frame in tables.items():
        assert back[name].equals(validate(name, frame))


def test_definitions_make_the_tables_they_describe(tmp_path: Path) -> None:
    build(tmp_path / "w.duckdb", {})
    rows = query(
        tmp_path / "w.duckdb",
        "select table_name, column_name, data_type, is_nullable from duckdb_columns() "
        "where database_name = 'w' order by table_oid, column_index",
    )
    kinds = {pl.String: "VARCHAR", pl.Int64: "BIGINT", pl.Float64: "DOUBLE", pl.Boolean: "BOOLEAN"}
    for table in TABLES:
        made = rows.filter(table_name=table.name).select(pl.exclude("table_name")).rows()
        assert made == [(c.name, kinds[c.dtype], c.nullable) for c in table.columns]


def test_every_reference_leads_to_a_key() -> None:
    for table in TABLES:
        for column in table.columns:
            if column.references:
                other, key = column.references
                assert BY_NAME[other].key == (key,)


def test_every_view_says_what_it_is(tmp_path: Path) -> None:
    build(tmp_path / "w.duckdb", {})
    rows = query(
        tmp_path / "w.duckdb",
        "select view_name, comment from duckdb_views() where not internal order by 1",
    )
    folder = Path(sys.modules["warehouse"].__path__[0]) / "views"
    assert rows["view_name"].to_list() == sorted(f.stem for f in folder.iterdir())
    assert all(len(comment) > 20 for comment in rows["comment"])


@pytest.mark.parametrize("name", list_examples())
def test_examples_need_no_extension(tables: Tables, tmp_path: Path, name: str) -> None:
    build(tmp_path / "w.duckdb", tables)
    plain: dict[str, str | bool | int | float | list[str]] = {
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
    }
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True, config=plain) as connection:
        connection.execute(example_sql(name))
    assert example_sql(name).startswith("-- ")


@pytest.mark.parametrize(
    ("table", "column", "wrong"),
    [("dim_track", "split", "test"), ("dim_query", "kind", "song")],
)
def test_a_value_that_is_no_choice_is_named(
    tables: Tables, tmp_path: Path, table: str, column: str, wrong: str
) -> None:
    frame = tables[table].with_columns(
        pl.when(pl.int_range(pl.len()) == 1).then(pl.lit(wrong)).otherwise(column).alias(column)
    )
    with pytest.raises(WarehouseError, match=f"{table}.{column}: 1 values are none of .*{wrong}"):
        build(tmp_path / "w.duckdb", tables | {table: frame})


def test_a_second_share_rule_is_refused(tables: Tables) -> None:
    twice = pl.concat([tables["share_rule"]] * 2)
    with pytest.raises(WarehouseError, match="share_rule: 2 rows, must be one"):
        validate("share_rule", twice)


def test_a_version_of_an_unknown_track_is_refused(tables: Tables, tmp_path: Path) -> None:
    frame = tables["dim_track"].with_columns(version_of=pl.lit("nowhere"))
    with pytest.raises(WarehouseError, match=r"dim_track\.version_of: 1 values .* nowhere"):
        build(tmp_path / "w.duckdb", tables | {"dim_track": frame})


def test_unusable_queries_are_told_in_words(tmp_path: Path) -> None:
    build(tmp_path / "w.duckdb", {})
    path = tmp_path / "w.duckdb"
    with pytest.raises(WarehouseError, match="waited is an interval"):
        query(path, "select interval 1 day as waited")
    with pytest.raises(WarehouseError, match="read-only"):
        query(path, "drop table dim_track")
    with pytest.raises(WarehouseError, match="Conversion Error"):
        query(path, "select cast(i::varchar || 'x' as int) from range(9) t(i)")
    assert query(path, "").is_empty()
    (tmp_path / "notes.txt").write_text("no database at all")
    with pytest.raises(WarehouseError, match=r"notes\.txt: cannot be opened"):
        query(tmp_path / "notes.txt", "select 1")
