"""Hubs and the verdict on queries that are ignored, against counting."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tda_dagster.evaluation.metrics import EVALUATION_SCHEMA, row
from warehouse.build import build, query

Tables = dict[str, pl.DataFrame]
TOP = 20


@pytest.fixture
def scored(tables: Tables) -> Tables:
    """Forty segments, the last four held out, under scores that are often equal."""
    rng = np.random.default_rng(2)
    first = tables["dim_segment"].head(1)
    ids = [f"t{i % 12:02d}:{100 + i}" for i in range(40)]
    tables["dim_segment"] = pl.concat(
        first.with_columns(
            segment_id=pl.lit(name),
            track_id=pl.lit(name.partition(":")[0]),
            split=pl.lit("heldout" if i >= 36 else "train"),
        )
        for i, name in enumerate(ids)
    )
    tables["fct_score"] = pl.concat(
        pl.DataFrame(
            {
                "query_id": name,
                "method_id": method,
                "segment_id": ids,
                "score": rng.integers(0, 12, len(ids)) / 4.0,
                "score_se": 0.1,
                "rank": 1,
            },
            schema_overrides={"rank": pl.Int64},
        )
        for name in tables["dim_query"]["query_id"]
        for method in ("m1", "m2")
    )
    return tables


def test_hubs_are_counted_in_the_lists_of_training_segments(scored: Tables, tmp_path: Path) -> None:
    build(tmp_path / "w.duckdb", scored)
    found = query(tmp_path / "w.duckdb", "SELECT * FROM v_hub_segment")
    train = scored["dim_segment"].filter(split="train")["segment_id"].to_list()
    for method in ("m1", "m2"):
        counts: Counter[str] = Counter()
        for name in scored["dim_query"]["query_id"]:
            own = scored["fct_score"].filter(
                pl.col("segment_id").is_in(train), query_id=name, method_id=method
            )
            best = sorted(own.select("score", "segment_id").rows(), key=lambda s: (-s[0], s[1]))
            counts.update(segment for _, segment in best[:TOP])
        rows = found.filter(method_id=method).sort("hub_rank")
        expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        assert rows.select("segment_id", "occurrences").rows() == expected
        assert rows["hub_rank"].to_list() == list(range(1, len(expected) + 1))
        assert set(rows["queries"]) == {3}
        assert set(rows["segments"]) == {len(train)}
        assert rows["share"].to_list() == pytest.approx([n / 3 for _, n in expected])


def test_queries_are_ignored_where_both_figures_say_so(tables: Tables, tmp_path: Path) -> None:
    figures = {"m1": (0.5, 0.5), "m2": (0.9, 0.49), "m3": (0.49, 0.9), "m4": (1.0, 1.0)}
    first = tables["dim_method"].head(1)
    tables["dim_method"] = pl.concat(
        first.with_columns(method_id=pl.lit(name)) for name in (*figures, "m5")
    )
    tables["fct_score"] = tables["fct_score"].clear()
    made = [
        row("attribution", "c", metric, value, method_id=method, detail=detail)
        for method, (share, correlation) in figures.items()
        for metric, value, detail in (
            ("first_direction_share", share, ""),
            ("query_rank_correlation", correlation, ""),
            ("occurrence_skewness", 2.5, "top 20"),
            ("largest_occurrence", 0.75, "top 20"),
        )
    ]
    # Neither a query's figures nor a method without these ones make a row.
    made += [
        row("attribution", "c-000", "first_direction_share", 0.1, method_id="m1"),
        row("attribution", "c", "gini", 0.1, method_id="m5"),
    ]
    tables["fct_evaluation"] = pl.DataFrame(made, schema=EVALUATION_SCHEMA)
    build(tmp_path / "w.duckdb", tables)
    found = query(tmp_path / "w.duckdb", "SELECT * FROM v_query_independence ORDER BY method_id")
    assert dict(found.select("method_id", "verdict").iter_rows()) == {
        "m1": "ignores the query",
        "m2": "depends on the query",
        "m3": "depends on the query",
        "m4": "ignores the query",
    }
    assert set(found["occurrence_skewness"]) == {2.5}
    assert set(found["largest_occurrence"]) == {0.75}
    assert found["first_direction_share"].to_list() == [0.5, 0.9, 0.49, 1.0]
