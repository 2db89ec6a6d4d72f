"""The views against brute force and against what they say of themselves."""

from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from scipy import stats

from warehouse.build import build, query

Tables = dict[str, pl.DataFrame]


def ask(tmp_path: Path, tables: Tables, sql: str) -> pl.DataFrame:
    build(tmp_path / "w.duckdb", tables)
    return query(tmp_path / "w.duckdb", sql)


def vector(tables: Tables, query_id: str, method_id: str) -> list[float]:
    rows = tables["fct_score"].filter(query_id=query_id, method_id=method_id)
    return rows.sort("segment_id")["score"].to_list()


def test_shares_sum_to_one_at_every_level(tables: Tables, tmp_path: Path) -> None:
    build(tmp_path / "w.duckdb", tables)
    for view in ("v_rightsholder_share", "v_artist_share", "v_collection_share"):
        sums = query(
            tmp_path / "w.duckdb", f"select sum(share) s from {view} group by query_id, method_id"
        )
        assert sums["s"].to_list() == pytest.approx([1.0] * 6)
    for view in ("v_segment_share", "v_track_share"):
        sums = query(
            tmp_path / "w.duckdb",
            f"select sum(share) + any_value(unattributed) s from {view} "
            "group by query_id, method_id",
        )
        assert sums["s"].to_list() == pytest.approx([1.0] * 6)


def test_scored_heldout_segments_hold_no_share_and_change_none(
    tables: Tables, tmp_path: Path
) -> None:
    held_out = pl.col("segment_id").str.starts_with("t00")
    alone = tables | {"fct_score": tables["fct_score"].filter(~held_out)}
    alone["dim_segment"] = tables["dim_segment"].with_columns(
        split=pl.when(held_out).then(pl.lit("heldout")).otherwise("split")
    )
    sql = "select * from v_segment_share order by query_id, method_id, segment_id"
    expected = ask(tmp_path, alone, sql)
    controlled = alone | {"fct_score": tables["fct_score"]}
    assert ask(tmp_path, controlled, sql).equals(expected)
    assert not expected["segment_id"].str.starts_with("t00").any()


def test_the_summary_names_nobody_where_nothing_is_attributed(
    tables: Tables, tmp_path: Path
) -> None:
    tables["fct_score"] = tables["fct_score"].with_columns(score=pl.lit(1.0))
    rows = ask(tmp_path, tables, "select * from v_query_summary")
    assert rows["unattributed"].to_list() == [1.0] * 6
    for column in ("top_title", "top_track_id", "top_rightsholder", "gini", "effective_tracks"):
        assert rows[column].null_count() == 6


def test_concentration_follows_its_definition(tables: Tables, tmp_path: Path) -> None:
    build(tmp_path / "w.duckdb", tables)
    shares = query(tmp_path / "w.duckdb", "select query_id, method_id, share from v_track_share")
    summary = query(tmp_path / "w.duckdb", "select * from v_query_summary")
    for row in summary.iter_rows(named=True):
        x = shares.filter(query_id=row["query_id"], method_id=row["method_id"])["share"].to_numpy()
        gini = np.abs(x[:, None] - x[None, :]).sum() / (2 * len(x) * x.sum())
        assert row["gini"] == pytest.approx(gini)
        assert row["effective_tracks"] == pytest.approx(x.sum() ** 2 / (x**2).sum())


def test_the_top_track_is_the_one_with_the_largest_share(tables: Tables, tmp_path: Path) -> None:
    rows = ask(
        tmp_path,
        tables,
        "select s.top_track_id, t.track_id, s.top_track_share, t.share from v_query_summary s "
        "join v_track_share t using (query_id, method_id) where t.track_rank = 1",
    )
    assert rows["top_track_id"].equals(rows["track_id"], check_names=False)
    assert rows["top_track_share"].equals(rows["share"], check_names=False)


def test_top_segments_are_the_ten_of_highest_rank(tables: Tables, tmp_path: Path) -> None:
    rows = ask(tmp_path, tables, "select * from v_top_segment")
    expected = tables["fct_score"].filter(pl.col("rank") <= 10)
    assert rows.height == 60
    joined = rows.join(expected, on=["query_id", "method_id", "segment_id"], suffix="_table")
    assert joined.height == 60
    assert joined["score"].equals(joined["score_table"], check_names=False)


@pytest.mark.parametrize("tied", [False, True])
def test_agreement_is_the_correlation_of_scores(tables: Tables, tmp_path: Path, tied: bool) -> None:
    if tied:
        tables["fct_score"] = tables["fct_score"].with_columns(pl.col("score").round(0))
    rows = ask(tmp_path, tables, "select * from v_method_agreement where query_id is not null")
    assert rows.height == 3
    for row in rows.iter_rows(named=True):
        one, other = (vector(tables, row["query_id"], m) for m in ("m1", "m2"))
        assert (row["method_id"], row["other_method_id"]) == ("m1", "m2")
        assert row["segments"] == len(one)
        assert row["spearman"] == pytest.approx(stats.spearmanr(one, other).statistic)
        assert row["pearson"] == pytest.approx(stats.pearsonr(one, other).statistic)
    mean = query(
        tmp_path / "w.duckdb", "select * from v_method_agreement where query_id is null"
    ).row(0, named=True)
    assert mean["spearman"] == pytest.approx(rows["spearman"].mean())


def test_agreement_is_empty_with_one_method_and_null_for_equal_scores(
    tables: Tables, tmp_path: Path
) -> None:
    of_one = pl.col("method_id") == "m1"
    one = tables | {"fct_score": tables["fct_score"].filter(of_one)}
    assert ask(tmp_path, one, "select * from v_method_agreement").is_empty()
    flat = tables["fct_score"].with_columns(score=pl.when(of_one).then(1.0).otherwise("score"))
    rows = ask(tmp_path, tables | {"fct_score": flat}, "select * from v_method_agreement")
    assert rows["spearman"].null_count() == rows["pearson"].null_count() == rows.height == 4


def test_agreement_of_many_methods_takes_little_memory(tables: Tables, tmp_path: Path) -> None:
    methods = [f"n{number:02d}" for number in range(60)]
    copies = 20  # of every segment, so that there are 480
    rng = np.random.default_rng(3)
    for name in ("dim_segment", "fct_score"):
        tables[name] = pl.concat(
            tables[name].with_columns(segment_id=pl.col("segment_id") + f"/{copy:02d}")
            for copy in range(copies)
        )
    pairs = tables["fct_score"].filter(method_id="m1").drop("method_id")
    tables["fct_score"] = pairs.join(pl.DataFrame({"method_id": methods}), how="cross")
    tables["fct_score"] = tables["fct_score"].with_columns(
        score=pl.Series(rng.normal(size=tables["fct_score"].height))
    )
    tables["dim_method"] = pl.concat(
        tables["dim_method"].head(1).with_columns(method_id=pl.lit(m), method=pl.lit(m))
        for m in methods
    )
    build(tmp_path / "w.duckdb", tables)
    config: dict[str, str | int] = {"memory_limit": "100MB", "threads": 1}
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True, config=config) as connection:
        connection.execute("set max_temp_directory_size = '0B'")
        counted = connection.execute("select count(*) from v_method_agreement").fetchone()
    assert counted == (60 * 59 / 2 * (3 + 1),)


def test_the_leaderboard_places_methods_by_direction(tables: Tables, tmp_path: Path) -> None:
    figures = [
        {
            "evaluation": "fidelity",
            "subject": "all",
            "method_id": method_id,
            "metric": metric,
            "value": value,
            "unit": "",
            "direction": direction,
            "detail": "",
        }
        for metric, direction in (("lds", "higher"), ("rank", "lower"), ("mean", "none"))
        for method_id, value in (("m1", 0.2), ("m2", 0.4))
    ]
    rows = ask(
        tmp_path,
        tables | {"fct_evaluation": pl.DataFrame(figures)},
        "select metric, method_id, place from v_method_leaderboard order by 1, 2",
    )
    assert rows["place"].to_list() == [2, 1, None, None, 1, 2]


def test_the_leaderboard_counts_each_query_of_a_bench_once(tables: Tables, tmp_path: Path) -> None:
    figures = [
        {
            "evaluation": "datamodel",
            "subject": subject,
            "method_id": "m1",
            "metric": "lds",
            "value": value,
            "unit": "",
            "direction": "higher",
            "detail": detail,
        }
        for subject, value, detail in (
            ("c-000", 0.2, ""),
            ("c-001", 0.4, ""),
            ("c-001", 0.9, "confirming"),
            ("c", 0.9, ""),
            ("c", 0.9, "choosing"),
        )
    ]
    rows = ask(
        tmp_path,
        tables | {"fct_evaluation": pl.DataFrame(figures)},
        "select value, queries from v_method_leaderboard",
    )
    assert rows.rows() == [(pytest.approx(0.3), 2)]


def test_methods_differ_by_what_they_differ_when_drawn_again(
    tables: Tables, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    drawn = {m: rng.normal(size=50) for m in ("m1", "m2")}
    common = {"cohort": "c", "metric": "lds", "detail": ""}
    tables["fct_resample"] = pl.concat(
        pl.DataFrame({"method_id": m, "resample": range(50), "value": values}).with_columns(
            **{name: pl.lit(value) for name, value in common.items()}
        )
        for m, values in drawn.items()
    )
    tables["fct_evaluation"] = pl.DataFrame(
        [
            {"evaluation": "datamodel", "subject": "c", "method_id": m, "metric": "lds",
             "value": value, "unit": "", "direction": "higher", "detail": ""}
            for m, value in (("m1", 0.5), ("m2", 0.2))
        ]
    )  # fmt: skip
    rows = ask(tmp_path, tables, "select * from v_method_difference order by method_id").to_dicts()
    for row, sign in zip(rows, (1, -1), strict=True):
        apart = sign * (drawn["m1"] - drawn["m2"])
        assert row["difference"] == pytest.approx(sign * 0.3)
        assert (row["low"], row["high"]) == pytest.approx(np.quantile(apart, [0.025, 0.975]))


def test_versions_of_a_queried_segment_are_found(tables: Tables, tmp_path: Path) -> None:
    tables["dim_track"] = tables["dim_track"].with_columns(
        version_of=pl.when(pl.col("track_id") == "t05").then(pl.lit("t01")),
        version_kind=pl.when(pl.col("track_id") == "t05").then(pl.lit("transposed")),
    )
    tables["dim_query"] = tables["dim_query"].with_columns(
        kind=pl.when(pl.col("query_id") == "c-001").then(pl.lit("segment")).otherwise("kind"),
        segment_id=pl.when(pl.col("query_id") == "c-001").then(pl.lit("t01:0000")),
    )
    rows = ask(tmp_path, tables, "select * from v_version_recall")
    assert set(rows["query_id"]) == {"c-001"}
    assert rows.select("track_id", "version_kind").unique().rows() == [("t05", "transposed")]
    assert rows.height == 2


def test_the_lineage_of_a_score_ends_at_segment_and_audio(tables: Tables, tmp_path: Path) -> None:
    rows = ask(
        tmp_path,
        tables,
        "select * from v_score_lineage where query_id = 'c-000' and method_id = 'm1' "
        "and segment_id = 't03:0001' order by depth",
    )
    assert rows["asset"].to_list() == ["segment", "audio file"]
    assert rows["depth"].to_list() == [1, 2]
    assert rows["sha256"][1] == f"{3:064d}"


def test_every_run_gives_the_same_digits(tables: Tables, tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    build(path, many_scores(tables))
    for view in ("v_segment_share", "v_track_share", "v_rightsholder_share", "v_query_summary"):
        answers = set()
        for threads in (1, 2, 4, 8):
            with duckdb.connect(
                str(path), read_only=True, config={"threads": threads}
            ) as connection:
                rows = connection.execute(f"SELECT * FROM {view} ORDER BY ALL").fetchall()
            answers.add(repr(rows))
        assert len(answers) == 1, view


def many_scores(tables: Tables) -> Tables:
    """The same tracks with so many scored segments that DuckDB works on them in parallel."""
    rng = np.random.default_rng(1)
    count, total = 20_000, tables["dim_track"].height
    index = np.arange(count)
    like = tables["dim_segment"].row(0, named=True)
    segments = pl.DataFrame(
        {"track_id": [f"t{i % total:02d}" for i in index], "segment_index": index // total}
    ).with_columns(
        segment_id=pl.concat_str("track_id", pl.col("segment_index").cast(pl.String), separator=":")
    )
    rest = {name: value for name, value in like.items() if name not in segments.columns}
    scores = [
        pl.DataFrame(
            {
                "query_id": query_id,
                "method_id": method_id,
                "segment_id": segments["segment_id"],
                "score": rng.standard_t(3, count),
                "score_se": None,
            },
            schema_overrides={"score_se": pl.Float64},
        ).with_columns(rank=pl.col("score").rank("ordinal", descending=True).cast(pl.Int64))
        for query_id in tables["dim_query"]["query_id"]
        for method_id in tables["dim_method"]["method_id"]
    ]
    return tables | {
        "dim_segment": segments.join(pl.DataFrame([rest]), how="cross"),
        "fct_score": pl.concat(scores),
    }
