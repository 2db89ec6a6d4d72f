"""Reliability of a query, what it does to shares, and whether intervals hold what they promise."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl
import pytest

from tda_dagster.attribution.scoring import evidence, robust_z
from tda_dagster.settings import ShareSettings
from warehouse.build import build, query

Tables: TypeAlias = dict[str, pl.DataFrame]


def database(tables: Tables, folder: Path) -> Path:
    build(folder / "w.duckdb", tables)
    return folder / "w.duckdb"


def with_scores(tables: Tables, chance: float, seed: int = 0) -> Tables:
    """The tables with scores that are a truth of variance one and a chance of known size, the
    same truth and another chance for each method."""
    train = tables["dim_segment"].filter(split="train")["segment_id"].to_list()
    frames = []
    for name in tables["dim_query"]["query_id"]:
        truth = np.random.default_rng([seed, len(frames)]).normal(size=len(train))
        for method in tables["dim_method"]["method_id"]:
            drawn = np.random.default_rng([seed, 7, len(frames)]).normal(size=len(train))
            scores = truth + chance * drawn
            frames.append(
                pl.DataFrame(
                    {
                        "query_id": name,
                        "method_id": method,
                        "segment_id": train,
                        "score": scores,
                        "score_se": chance,
                        "rank": (-scores).argsort().argsort() + 1,
                    }
                )
            )
    return tables | {"fct_score": pl.concat(frames)}


def test_it_is_the_part_of_the_variance_that_is_not_chance(tables: Tables, tmp_path: Path) -> None:
    made = with_scores(tables, chance=0.5)
    path = database(made, tmp_path)
    found = query(path, "SELECT * FROM v_query_reliability").to_dicts()
    assert found
    for row in found:
        scores = made["fct_score"].filter(query_id=row["query_id"], method_id=row["method_id"])
        expected = max(0.0, 1 - 0.25 / scores["score"].var(ddof=0))  # type: ignore[operator]
        assert row["reliability"] == pytest.approx(expected)


def test_scores_without_draws_have_none_and_are_attributed(tables: Tables, tmp_path: Path) -> None:
    rule = tables["share_rule"].with_columns(min_reliability=pl.lit(0.9))
    scores = tables["fct_score"].with_columns(score_se=pl.lit(None, pl.Float64))
    path = database(tables | {"share_rule": rule, "fct_score": scores}, tmp_path)
    found = query(path, "SELECT reliability FROM v_query_reliability")["reliability"]
    assert found.null_count() == len(found) > 0
    assert query(path, "SELECT min(unattributed) FROM v_segment_share").item() < 1


def test_a_query_that_is_not_reliable_enough_is_not_attributed(
    tables: Tables, tmp_path: Path
) -> None:
    made = tables | {
        "share_rule": tables["share_rule"].with_columns(min_reliability=pl.lit(0.5)),
        "fct_score": tables["fct_score"].with_columns(
            score_se=pl.when(pl.col("method_id") == "m1").then(0.01).otherwise(100.0)
        ),
    }
    path = database(made, tmp_path)
    shares = query(
        path,
        "SELECT method_id, min(unattributed) AS unattributed, sum(share) AS share "
        "FROM v_segment_share GROUP BY 1 ORDER BY 1",
    ).to_dicts()
    assert [row["share"] > 0 for row in shares] == [True, False]
    assert shares[1]["unattributed"] == 1


def test_prominence_is_that_of_the_best_segment_beside_the_best_of_noise(
    tables: Tables, tmp_path: Path
) -> None:
    path = database(tables, tmp_path)
    found = query(path, "SELECT * FROM v_query_reliability").to_dicts()
    assert len(found) == 6
    for row in found:
        scores = tables["fct_score"].filter(query_id=row["query_id"], method_id=row["method_id"])
        z = robust_z(scores["score"].to_numpy())
        assert row["prominence"] == pytest.approx(z.max() / np.sqrt(2 * np.log(len(z))))
        assert row["segments"] == len(z)


def test_scores_that_are_all_equal_but_one_have_none(tables: Tables, tmp_path: Path) -> None:
    first = tables["dim_segment"]["segment_id"][0]
    scores = tables["fct_score"].with_columns(
        score=pl.when(pl.col("segment_id") == first).then(1.0).otherwise(0.0)
    )
    path = database(tables | {"fct_score": scores}, tmp_path)
    assert query(path, "SELECT max(prominence) FROM v_query_reliability").item() == 0


def test_noise_is_not_attributed_and_what_stands_out_of_it_is(
    tables: Tables, tmp_path: Path
) -> None:
    segments, queries = 400, 40
    names = [f"s{number:03d}" for number in range(segments)]
    asked = [f"c-{number:03d}" for number in range(queries)]
    scores = np.random.default_rng(11).normal(size=(queries, segments))
    scores[1::2, 7] += 9.0  # every other query has a segment that shaped it
    made = tables | {
        "dim_segment": _repeated(tables["dim_segment"], "segment_id", names),
        "dim_query": _repeated(tables["dim_query"], "query_id", asked),
        "fct_score": pl.DataFrame(
            {
                "query_id": np.repeat(asked, segments),
                "method_id": "m1",
                "segment_id": names * queries,
                "score": scores.ravel(),
                "score_se": None,
                "rank": (-scores).argsort(axis=1).argsort(axis=1).ravel() + 1,
            },
            schema_overrides={"score_se": pl.Float64},
        ),
        "share_rule": tables["share_rule"].with_columns(
            min_prominence=pl.lit(ShareSettings().min_prominence)
        ),
    }
    rows = query(
        database(made, tmp_path),
        "SELECT max(unattributed) AS unattributed FROM v_segment_share "
        "GROUP BY query_id ORDER BY query_id",
    )["unattributed"].to_numpy()
    assert (rows[1::2] < 0.6).all()
    # The universal threshold is passed by noise with a probability of about 1 / sqrt(4 pi ln N).
    assert (rows[0::2] == 1).mean() > 1 - 2 / np.sqrt(4 * np.pi * np.log(segments))


def _repeated(table: pl.DataFrame, key: str, names: list[str]) -> pl.DataFrame:
    """The first row of a table under other names."""
    row = table.head(1).drop(key)
    return row.join(pl.DataFrame({key: names}), how="cross")


def test_intervals_of_the_right_size_cover_and_too_small_ones_do_not(
    tables: Tables, tmp_path: Path
) -> None:
    method = tables["dim_method"].with_columns(
        config=pl.Series(
            [
                '{"noise": {"seed": 0}, "gradients": {"seed": 7, "draws": 2}, "steps": 1}',
                '{"noise": {"seed": 1}, "gradients": {"seed": 8, "draws": 2}, "steps": 1}',
            ]
        )
    )
    right = with_scores(tables | {"dim_method": method}, chance=0.5)
    narrow = right["fct_score"].with_columns(pl.col("score_se") / 10)
    found = [
        query(database(made, tmp_path), "SELECT coverage, scores FROM v_interval_coverage")
        for made in (right, right | {"fct_score": narrow})
    ]
    pairs = int(found[0]["scores"].sum())
    allowed = 4 * np.sqrt(0.95 * 0.05 / pairs)
    assert np.average(found[0]["coverage"], weights=found[0]["scores"]) == pytest.approx(
        0.95, abs=allowed
    )
    assert found[1]["coverage"].max() < 0.6


def test_specs_that_differ_in_more_than_noise_are_not_compared(
    tables: Tables, tmp_path: Path
) -> None:
    method = tables["dim_method"].with_columns(config=pl.Series(['{"steps": 1}', '{"steps": 2}']))
    path = database(tables | {"dim_method": method}, tmp_path)
    assert query(path, "SELECT * FROM v_interval_coverage").is_empty()


def test_the_calibration_has_each_query_with_its_score_on_its_half(
    tables: Tables, tmp_path: Path
) -> None:
    names = tables["dim_query"]["query_id"].to_list()
    halves = [
        "choosing" if number < len(names) / 2 else "confirming" for number in range(len(names))
    ]
    figures = pl.DataFrame(
        {
            "evaluation": "datamodel",
            "subject": names * 2,
            "method_id": "m1",
            "metric": "lds",
            "value": [0.1 * number for number in range(len(names))] + [0.9] * len(names),
            "unit": "",
            "direction": "higher",
            "detail": halves + [""] * len(names),
        }
    )
    path = database(tables | {"fct_evaluation": figures}, tmp_path)
    found = query(path, "SELECT * FROM v_reliability_calibration ORDER BY query_id").to_dicts()
    assert [row["query_id"] for row in found] == sorted(names)
    for row in found:
        number = names.index(row["query_id"])
        assert row["lds"] == pytest.approx(0.1 * number)
        assert row["half"] == halves[number]


def test_evidence_is_the_same_in_sql_as_where_methods_are_held_against_retraining(
    tables: Tables, tmp_path: Path
) -> None:
    made = with_scores(tables, chance=0.5)
    scores = made["fct_score"].with_columns(pl.col("score").pow(3))  # long tails
    path = database(made | {"fct_score": scores}, tmp_path)
    (threshold,) = made["share_rule"]["threshold_z"]
    shares = query(path, "SELECT query_id, method_id, segment_id, evidence FROM v_segment_share")
    assert shares["evidence"].max() > 0  # type: ignore[operator]
    for key, part in scores.group_by("query_id", "method_id"):
        own = shares.filter(query_id=key[0], method_id=key[1])
        both = part.join(own, on="segment_id")
        assert both.height == part.height
        expected = evidence(both["score"].to_numpy(), threshold)
        np.testing.assert_allclose(both["evidence"], expected, rtol=1e-9, atol=1e-12)
