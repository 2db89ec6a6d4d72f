"""How far chance in the draws could move a segment, against counting."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl
import pytest

from warehouse.build import build, query

Tables: TypeAlias = dict[str, pl.DataFrame]


def scored(tables: Tables, queries: int, segments: int, seed: int = 0) -> Tables:
    """The tables with scores that are often equal, and standard errors from none to wide: method m1
    has them, method m2 has not. The last two segments are held out."""
    rng = np.random.default_rng(seed)
    names = [f"c-{i:03d}" for i in range(queries)]
    ids = [f"t00:{i:04d}" for i in range(segments)]
    segment = tables["dim_segment"].head(1)
    asked = tables["dim_query"].head(1)
    scores = [
        pl.DataFrame(
            {
                "query_id": name,
                "method_id": method,
                "segment_id": ids,
                "score": rng.integers(0, segments // 2, segments) / 4.0,
                "score_se": rng.integers(0, 5, segments) / 4.0 if method == "m1" else None,
                "rank": 1,
            },
            schema_overrides={"score_se": pl.Float64, "rank": pl.Int64},
        )
        for name in names
        for method in ("m1", "m2")
    ]
    return tables | {
        "dim_segment": pl.concat(
            segment.with_columns(
                segment_id=pl.lit(name),
                segment_index=pl.lit(i, pl.Int64),
                split=pl.lit("heldout" if i >= segments - 2 else "train"),
            )
            for i, name in enumerate(ids)
        ),
        "dim_query": pl.concat(
            asked.with_columns(query_id=pl.lit(name), query_index=pl.lit(i, pl.Int64))
            for i, name in enumerate(names)
        ),
        "fct_score": pl.concat(scores),
    }


def test_ranks_at_the_ends_of_an_interval_are_counted_among_training_segments(
    tables: Tables, tmp_path: Path
) -> None:
    made = scored(tables, queries=3, segments=40)
    build(tmp_path / "w.duckdb", made)
    found = query(tmp_path / "w.duckdb", "SELECT * FROM v_rank_stability")
    train = made["dim_segment"].filter(split="train")["segment_id"].to_list()
    assert found.height == 3 * len(train)
    assert set(found["method_id"]) == {"m1"}
    for row in found.iter_rows(named=True):
        scores = made["fct_score"].filter(
            pl.col("segment_id").is_in(train), query_id=row["query_id"], method_id="m1"
        )
        own = scores.row(by_predicate=pl.col("segment_id") == row["segment_id"], named=True)
        low, high = (own["score"] + sign * 1.96 * own["score_se"] for sign in (-1, 1))
        assert (row["score_low"], row["score_high"]) == (low, high)
        assert row["rank_best"] == 1 + sum(other > high for other in scores["score"])
        assert row["rank_worst"] == sum(other >= low for other in scores["score"])


@pytest.mark.parametrize("deviation", [0.0, 1e9])
def test_without_error_ranks_are_certain_and_with_any_they_are_open(
    tables: Tables, tmp_path: Path, deviation: float
) -> None:
    made = scored(tables, queries=1, segments=40)
    train = 38
    distinct = made["fct_score"].filter(method_id="m1").with_columns(
        score=pl.int_range(pl.len()).cast(pl.Float64), score_se=pl.lit(deviation)
    )  # fmt: skip
    build(tmp_path / "w.duckdb", made | {"fct_score": distinct})
    found = query(tmp_path / "w.duckdb", "SELECT * FROM v_rank_stability ORDER BY score DESC")
    expected = [(i, i) for i in range(1, train + 1)] if deviation == 0 else [(1, train)] * train
    assert found.select("rank_best", "rank_worst").rows() == expected
