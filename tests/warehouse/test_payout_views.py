"""Payouts: shares with the unattributed part paid by seconds trained on."""

from pathlib import Path

import polars as pl
import pytest

from warehouse.build import build, query

Tables = dict[str, pl.DataFrame]


@pytest.fixture
def uneven(tables: Tables) -> Tables:
    """The segments have between one and three times as much music, and some are held out."""
    segments = tables["dim_segment"].with_row_index()
    return tables | {
        "dim_segment": segments.with_columns(
            valid_samples=pl.col("valid_samples") * (1 + pl.col("index") % 3).cast(pl.Int64),
        ).drop("index")
    }


def test_a_track_is_paid_its_share_and_its_part_of_what_nobody_is_attributed(
    uneven: Tables, tmp_path: Path
) -> None:
    path = tmp_path / "w.duckdb"
    build(path, uneven)
    trained = uneven["dim_segment"].filter(split="train")
    seconds = dict(trained.group_by("track_id").agg(pl.col("valid_samples").sum()).iter_rows())
    total = sum(seconds.values())
    assert len(set(seconds.values())) > 1
    rows = query(path, "select * from v_track_share")
    assert rows["unattributed"].max() > 0
    for row in rows.iter_rows(named=True):
        part = seconds[row["track_id"]] / total
        assert row["training_share"] == pytest.approx(part)
        assert row["payout"] == pytest.approx(row["share"] + row["unattributed"] * part)


def test_payouts_sum_to_one_for_whoever_is_paid(uneven: Tables, tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    build(path, uneven)
    for view, key in (
        ("v_track_share", "query_id"),
        ("v_artist_share", "query_id"),
        ("v_collection_share", "query_id"),
        ("v_rightsholder_share", "query_id"),
        ("v_piece_track_share", "piece_id"),
        ("v_piece_rightsholder_share", "piece_id"),
    ):
        sums = query(path, f"select sum(payout) s from {view} group by {key}, method_id")
        assert sums["s"].to_list() == pytest.approx([1.0] * 6), view


def test_a_rightsholder_is_paid_the_sum_of_the_tracks(uneven: Tables, tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    build(path, uneven)
    apart = query(
        path,
        "with tracks as (select query_id, method_id, rightsholder, sum(payout) paid "
        "from v_track_share group by all) "
        "select max(abs(paid - payout)) worst, count(*) n from v_rightsholder_share "
        "join tracks using (query_id, method_id, rightsholder) where not is_unattributed",
    )
    assert apart["n"].item() > 6
    assert apart["worst"].item() == pytest.approx(0, abs=1e-12)


def supported(tables: Tables, support: float, spread: float | None) -> Tables:
    rows = {"method_id": ["m1"], "support": [support], "spread": [spread]}
    rule = tables["share_rule"].with_columns(interval_floor=pl.lit(0.01))
    return tables | {
        "method_support": pl.DataFrame(rows, schema_overrides={"spread": pl.Float64}),
        "share_rule": rule,
    }


def test_support_takes_its_part_of_every_share_and_changes_no_order(
    uneven: Tables, tmp_path: Path
) -> None:
    sql = "select * from v_track_share order by query_id, method_id, track_id"
    whole, part = tmp_path / "whole.duckdb", tmp_path / "part.duckdb"
    build(whole, uneven)
    build(part, supported(uneven, 0.4, None))
    before, after = query(whole, sql), query(part, sql)
    of_m1 = before["method_id"] == "m1"
    assert after.filter(~of_m1).equals(before.filter(~of_m1))
    old, new = before.filter(of_m1), after.filter(of_m1)
    assert new["share"].to_list() == pytest.approx((0.4 * old["share"]).to_list())
    expected = 1 - 0.4 * (1 - old["unattributed"])
    assert new["unattributed"].to_list() == pytest.approx(expected.to_list())
    assert new["track_rank"].to_list() == old["track_rank"].to_list()


def test_intervals_of_payouts_reach_as_far_as_was_measured(uneven: Tables, tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    build(path, supported(uneven, 0.5, 0.3))
    for view in ("v_rightsholder_share", "v_artist_share", "v_piece_rightsholder_share"):
        rows = query(path, f"select * from {view} where not is_unattributed")
        measured = rows.filter(method_id="m1")
        assert measured.height > 3
        for row in measured.iter_rows(named=True):
            reach = 0.3 * (row["payout"] * (1 - row["payout"]) + 0.01) ** 0.5
            assert row["payout_low"] == pytest.approx(max(0, row["payout"] - reach))
            assert row["payout_high"] == pytest.approx(min(1, row["payout"] + reach))
        # Nothing was measured of the other method.
        other = rows.filter(method_id="m2")
        assert other.height > 3
        assert other["payout_low"].null_count() == other.height
