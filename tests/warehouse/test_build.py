"""The warehouse against brute force: shares, keys, references, swaps, staleness."""

import statistics
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import polars as pl
import pytest

from warehouse.build import build, content_digest, example_sql, list_examples, query
from warehouse.dictionary import data_dictionary
from warehouse.tables import BY_NAME, TABLES, WarehouseError, validate

THRESHOLD = 2.0
HOSTILE = "Robert'); DROP TABLE dim_track;-- <script>"


def null_excess(threshold: float) -> float:
    normal = NormalDist()
    return normal.pdf(threshold) - threshold * (1 - normal.cdf(threshold))


def brute_force_shares(scores: list[float]) -> tuple[list[float], float]:
    """The rule of the data dictionary in plain Python."""
    median = statistics.median(scores)
    mad = statistics.median(abs(s - median) for s in scores)
    z = [(s - median) / (1.4826 * mad) if mad else 0.0 for s in scores]
    evidence = [max(0.0, v - THRESHOLD) for v in z]
    total = sum(evidence)
    unattributed = min(1.0, len(scores) * null_excess(THRESHOLD) / total) if total else 1.0
    return [(1 - unattributed) * e / total if total else 0.0 for e in evidence], unattributed


def test_shares_follow_the_rule(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    build(tmp_path / "w.duckdb", tables)
    got = query(tmp_path / "w.duckdb", "select * from v_segment_share order by segment_id")
    for (q, m), frame in got.group_by("query_id", "method_id"):
        shares, unattributed = brute_force_shares(frame["score"].to_list())
        assert frame["share"].to_list() == pytest.approx(shares), (q, m)
        assert frame["unattributed"][0] == pytest.approx(unattributed)


@pytest.mark.parametrize("view", ["v_rightsholder_share", "v_artist_share"])
def test_shares_sum_to_one(tables: dict[str, pl.DataFrame], tmp_path: Path, view: str) -> None:
    build(tmp_path / "w.duckdb", tables)
    sql = f"select sum(share) s from {view} group by query_id, method_id"
    assert query(tmp_path / "w.duckdb", sql)["s"].to_list() == pytest.approx([1.0] * 6)


def test_equal_scores_attribute_nothing(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    tables["fct_score"] = tables["fct_score"].with_columns(score=pl.lit(1.0))
    build(tmp_path / "w.duckdb", tables)
    rows = query(tmp_path / "w.duckdb", "select * from v_rightsholder_share where is_unattributed")
    assert rows["share"].to_list() == [1.0] * 6


def test_a_rightsholder_called_unattributed_is_not_the_unattributed_share(
    tables: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    build(tmp_path / "w.duckdb", tables)
    sql = (
        "select count(*) n from v_rightsholder_share "
        "where rightsholder = 'unattributed' group by query_id, method_id"
    )
    assert query(tmp_path / "w.duckdb", sql)["n"].to_list() == [2] * 6


@pytest.mark.parametrize("name", list_examples())
def test_examples_run_on_any_warehouse(
    tables: dict[str, pl.DataFrame], tmp_path: Path, name: str
) -> None:
    build(tmp_path / "w.duckdb", tables)
    query(tmp_path / "w.duckdb", example_sql(name))
    build(tmp_path / "empty.duckdb", {})
    query(tmp_path / "empty.duckdb", example_sql(name))


def test_hostile_text_is_data(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    build(tmp_path / "w.duckdb", tables)
    rows = query(tmp_path / "w.duckdb", "select title from dim_track where track_id = 't00'")
    assert rows["title"][0] == HOSTILE


def test_wrong_data_is_named_and_the_old_database_stays(
    tables: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    path = tmp_path / "w.duckdb"
    build(path, tables)
    before = path.read_bytes()
    wrong = {
        "fct_score.score: 1 values not finite": tables["fct_score"].with_columns(
            score=pl.when(pl.int_range(pl.len()) == 0).then(float("nan")).otherwise("score")
        ),
        "fct_score.segment_id: 1 values are not in dim_segment": tables["fct_score"].with_columns(
            segment_id=pl.when(pl.int_range(pl.len()) == 0)
            .then(pl.lit("nowhere"))
            .otherwise("segment_id")
        ),
        "rows share a key": pl.concat([tables["fct_score"], tables["fct_score"].head(1)]),
        "column rank is missing": tables["fct_score"].drop("rank"),
        "fct_score.rank: is String": tables["fct_score"].with_columns(pl.col("rank").cast(str)),
    }
    for message, frame in wrong.items():
        with pytest.raises(WarehouseError, match=message):
            build(path, tables | {"fct_score": frame})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["w.duckdb"]


def test_a_reader_keeps_its_database_while_a_new_one_is_built(
    tables: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    path = tmp_path / "w.duckdb"
    build(path, tables)
    script = (
        "import duckdb, sys\n"
        f"c = duckdb.connect({str(path)!r}, read_only=True)\n"
        "print('open', flush=True); sys.stdin.readline()\n"
        "print(c.execute('select count(*) from fct_score').fetchone()[0])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        smaller = tables["fct_score"].filter(pl.col("query_id") == "c-000")
        build(path, tables | {"fct_score": smaller})
        out, _ = reader.communicate("\n", timeout=30)
    assert int(out) == tables["fct_score"].height
    assert query(path, "select count(*) n from fct_score")["n"][0] == smaller.height


def test_the_content_digest_depends_on_content_alone(tables: dict[str, pl.DataFrame]) -> None:
    shuffled = {n: f.sample(fraction=1.0, shuffle=True, seed=1) for n, f in tables.items()}
    assert content_digest(shuffled) == content_digest(tables)
    changed = tables["fct_score"].with_columns(pl.col("score") + 1e-9)
    assert content_digest(tables | {"fct_score": changed}) != content_digest(tables)


def artifact(key: str, asset: str, *, live: bool = True, config: str = "c") -> dict[str, object]:
    return {
        "recipe_key": key,
        "artifact_digest": f"digest-{key}",
        "asset": asset,
        "partition": "",
        "code_version": "1",
        "config": "{}",
        "config_digest": config,
        "size_bytes": 1,
        "seconds": 0.0,
        "device": "cpu",
        "run_id": "r",
        "created_at": "2020",
        "is_live": live,
    }


def edge(consumer: str, source: str) -> dict[str, object]:
    return {
        "recipe_key": consumer,
        "input_name": source,
        "input_digest": f"digest-{source}",
        "input_recipe_key": source,
    }


def state(asset: str, config: str = "c") -> dict[str, object]:
    return {"asset": asset, "partition": "", "code_version": "1", "config_digest": config}


def frame(name: str, rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=BY_NAME[name].schema)


def stale(tmp_path: Path, lineage: dict[str, pl.DataFrame]) -> dict[str, str]:
    build(tmp_path / "w.duckdb", lineage)
    rows = query(tmp_path / "w.duckdb", "select asset, reason from v_stale_artifact order by asset")
    return dict(rows.iter_rows())


def test_staleness_is_transitive_and_says_why(tmp_path: Path) -> None:
    chain = {
        "dim_artifact": frame(
            "dim_artifact", [artifact("a", "x/a"), artifact("b", "x/b"), artifact("c", "x/c")]
        ),
        "lineage_edge": frame("lineage_edge", [edge("b", "a"), edge("c", "b")]),
        "dim_asset_state": frame("dim_asset_state", [state("x/a"), state("x/b"), state("x/c")]),
    }
    assert stale(tmp_path, chain) == {}
    changed = [state("x/a"), state("x/b", "other"), state("x/c")]
    chain["dim_asset_state"] = frame("dim_asset_state", changed)
    assert stale(tmp_path, chain) == {"x/b": "settings changed", "x/c": "input x/b is stale"}


def test_an_input_that_was_replaced_makes_stale(tmp_path: Path) -> None:
    chain = {
        "dim_artifact": frame(
            "dim_artifact",
            [artifact("a", "x/a", live=False), artifact("a2", "x/a"), artifact("b", "x/b")],
        ),
        "lineage_edge": frame("lineage_edge", [edge("b", "a")]),
        "dim_asset_state": frame("dim_asset_state", [state("x/a"), state("x/b")]),
    }
    assert stale(tmp_path, chain) == {"x/b": "input x/a was replaced"}


def test_the_dictionary_and_the_comments_cover_every_column(tmp_path: Path) -> None:
    text = data_dictionary()
    for table in TABLES:
        assert f"## {table.name}" in text
        for column in table.columns:
            assert f"| {column.name} |" in text
    build(tmp_path / "w.duckdb", {})
    rows = query(
        tmp_path / "w.duckdb",
        "select table_name, column_name, comment from duckdb_columns() "
        "where table_name in (select table_name from duckdb_tables()) "
        "and table_name <> 'data_dictionary'",
    )
    assert rows.height == sum(len(t.columns) for t in TABLES)
    assert rows["comment"].null_count() == 0


def test_a_missing_database_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="tda run"):
        query(tmp_path / "none.duckdb", "select 1")


def test_validate_sorts_by_key() -> None:
    rule = validate(
        "share_rule",
        pl.DataFrame(
            {
                "null_excess": [0.1],
                "threshold_z": [2.0],
                "min_reliability": [0.0],
                "min_prominence": [0.0],
            }
        ),
    )
    assert rule.columns[:4] == ["threshold_z", "null_excess", "min_reliability", "min_prominence"]
    assert rule["interval_floor"].to_list() == [None]  # a table from before it had the column
