"""Shares of pieces of several windows, against sums over windows by hand."""

from pathlib import Path

import polars as pl
import pytest

from warehouse.build import build, query
from warehouse.tables import with_windows

Tables = dict[str, pl.DataFrame]
SECONDS = {"c-000": 6.0, "c-001": 2.0}
SILENT_S = 4.0


@pytest.fixture
def windowed(tables: Tables) -> Tables:
    """c-000 and c-001 are windows of the piece c-p, beside a silent one; c-002 is a whole piece."""
    rows = []
    for row in tables["dim_query"].iter_rows(named=True):
        if row["query_id"] in SECONDS:
            number = int(row["query_id"][-1])
            row |= {
                "piece_id": "c-p",
                "query_index": 0,
                "window_index": number + 1,
                "start_s": 4.0 + 6.0 * number,
                "seconds": SECONDS[row["query_id"]],
            }
        rows.append(row)
    silent = rows[0] | {
        "query_id": "c-silent",
        "window_index": 0,
        "start_s": 0.0,
        "seconds": SILENT_S,
        "silent": True,
    }
    queries = pl.DataFrame([*rows, silent], schema=tables["dim_query"].schema)
    return tables | {"dim_query": queries}


def test_shares_of_a_piece_are_means_over_its_windows_by_seconds(
    windowed: Tables, tmp_path: Path
) -> None:
    database = tmp_path / "w.duckdb"
    build(database, windowed)
    total = sum(SECONDS.values()) + SILENT_S
    of_window = {
        row[:3]: row[3]
        for row in query(
            database, "select query_id, method_id, track_id, share from v_track_share"
        ).iter_rows()
    }
    found = query(database, "select * from v_piece_track_share where piece_id = 'c-p'")
    assert found.height == 2 * 12
    for row in found.iter_rows(named=True):
        expected = sum(
            of_window[name, row["method_id"], row["track_id"]] * seconds / total
            for name, seconds in SECONDS.items()
        )
        assert row["share"] == pytest.approx(expected, abs=1e-12)
        assert row["best_query_id"] in SECONDS
    assert any(share > 0 for share in found["share"])
    for (_, method), part in found.group_by("piece_id", "method_id"):
        unattributed = part["unattributed"].unique().item()
        assert unattributed >= SILENT_S / total, method
        assert part["share"].sum() + unattributed == pytest.approx(1.0, abs=1e-12)
        ranked = part.sort("track_rank")
        assert ranked["track_rank"].to_list() == list(range(1, 13))
        assert ranked["share"].is_sorted(descending=True)
    sums = query(
        database,
        "select sum(share) s from v_piece_rightsholder_share group by piece_id, method_id",
    )
    assert sums["s"].to_list() == pytest.approx([1.0] * 4, abs=1e-12)


def test_the_best_segment_is_that_of_the_window_where_the_track_stands_out_most(
    windowed: Tables, tmp_path: Path
) -> None:
    database = tmp_path / "w.duckdb"
    build(database, windowed)
    best = query(
        database,
        "select p.best_z, p.best_segment_id, t.query_id, p.best_query_id, t.best_z as z, "
        "t.best_segment_id as s from v_piece_track_share p join v_track_share t "
        "using (method_id, track_id) where p.piece_id = 'c-p' and t.query_id <> 'c-002'",
    )
    assert (best["best_z"] >= best["z"]).all()
    own = best.filter(pl.col("query_id") == pl.col("best_query_id"))
    assert own.height == 2 * 12
    assert own["best_z"].equals(own["z"], check_names=False)
    assert own["best_segment_id"].equals(own["s"], check_names=False)


def test_a_piece_of_one_window_is_its_query(windowed: Tables, tmp_path: Path) -> None:
    database = tmp_path / "w.duckdb"
    build(database, windowed)
    columns = (
        "method_id, track_rank, track_id, share, best_score, best_z, best_segment_id, unattributed"
    )
    piece, whole = (
        query(database, f"select {columns} from {view} where {key} = 'c-002' order by all")
        for view, key in (("v_piece_track_share", "piece_id"), ("v_track_share", "query_id"))
    )
    assert piece.height == 24
    assert piece.equals(whole)


def test_the_summary_has_a_row_per_piece_and_counts_windows(
    windowed: Tables, tmp_path: Path
) -> None:
    database = tmp_path / "w.duckdb"
    build(database, windowed)
    rows = query(database, "select * from v_piece_summary order by piece_id, method_id")
    assert rows["piece_id"].to_list() == ["c-002", "c-002", "c-p", "c-p"]
    assert rows["windows"].to_list() == [1, 1, 3, 3]
    assert rows["silent_windows"].to_list() == [0, 0, 1, 1]
    assert rows["seconds"].to_list() == [5.0, 5.0, 12.0, 12.0]
    windows = query(database, "select * from v_piece_window where silent")
    assert windows["unattributed"].to_list() == [1.0, 1.0]


def test_queries_of_before_windows_are_pieces_of_one(tables: Tables) -> None:
    new = ("piece_id", "window_index", "start_s", "silent")
    old = tables["dim_query"].drop(new)
    assert with_windows(old).equals(tables["dim_query"])
    assert with_windows(tables["dim_query"]).equals(tables["dim_query"])
