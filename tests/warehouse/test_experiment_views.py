"""The views about experiments, against brute force."""

import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from warehouse.build import build, query

Tables = dict[str, pl.DataFrame]

GROUPS = {"m1": "cross_attention", "m2": "transformer"}


@pytest.fixture
def studied(tables: Tables) -> Tables:
    """The small warehouse as a grid: two specs on three targets, one of them a version."""
    rng = np.random.default_rng(4)
    configs = [
        {
            "method": method_id,
            "unlearning": {
                "layer_group": GROUPS[method_id],
                "mask_padding": True,
                "learning_rate": 0.001,
                "steps": 2,
                "damping": 0.5,
            },
            "scoring": {"mask_padding": method_id == "m2", "score": "difference"},
        }
        for method_id in ("m1", "m2")
    ]
    tables["dim_method"] = tables["dim_method"].with_columns(
        config=pl.Series([json.dumps(c) for c in configs])
    )
    tables["dim_experiment"] = pl.DataFrame(
        [{"experiment": "grid", "cohort": "c", "method_id": m} for m in GROUPS]
    )
    tables["dim_track"] = tables["dim_track"].with_columns(
        version_of=pl.when(pl.col("track_id") == "t05").then(pl.lit("t01")),
        version_kind=pl.when(pl.col("track_id") == "t05").then(pl.lit("transposed")),
    )
    tables["dim_query"] = tables["dim_query"].with_columns(
        kind=pl.lit("segment"), segment_id=pl.Series(["t00:0000", "t01:0000", "t05:0001"])
    )
    figures = [
        ("attribution", query_id, method_id, metric, value, detail)
        for query_id in tables["dim_query"]["query_id"]
        for method_id in GROUPS
        for metric, value, detail in (
            ("self_influence_rank", float(rng.integers(1, 4)), ""),
            ("topk_similarity", float(rng.random()), "timbre"),
            ("bottomk_similarity", -float(rng.random()), "timbre"),
            ("topk_similarity", 9.0, "clap"),
            ("heldout_loss_rise", float(rng.random()), ""),
            ("gini", float(rng.random()), ""),
            ("top_1pct_share", float(rng.random()), ""),
        )
    ]
    figures += [
        ("generations", "c", method_id, metric, value, detail)
        for method_id in GROUPS
        for detail, values in (("unlearned", (1.0, 2.0, 3.0)), ("other seeds", (2.0, 4.0, 6.0)))
        for metric, value in zip(
            ("frechet_low", "frechet_distance", "frechet_high"), values, strict=True
        )
    ]
    names = ("evaluation", "subject", "method_id", "metric", "value", "detail")
    tables["fct_evaluation"] = pl.DataFrame(
        [
            dict(zip(names, figure, strict=True)) | {"unit": "", "direction": "none"}
            for figure in figures
        ]
    )
    return tables


def ask(tmp_path: Path, tables: Tables, sql: str) -> pl.DataFrame:
    if not (tmp_path / "w.duckdb").exists():
        build(tmp_path / "w.duckdb", tables)
    return query(tmp_path / "w.duckdb", sql)


def values(tables: Tables, method_id: str, metric: str, detail: str = "") -> np.ndarray:
    """A figure by query, in the order of queries."""
    rows = tables["fct_evaluation"].filter(method_id=method_id, metric=metric, detail=detail)
    return rows.sort("subject")["value"].to_numpy()


def test_a_spec_has_its_axes_and_the_means_of_its_figures(studied: Tables, tmp_path: Path) -> None:
    rows = ask(tmp_path, studied, "select * from v_experiment_spec order by method_id")
    assert rows["layer_group"].to_list() == list(GROUPS.values())
    assert rows["mask_loss"].to_list() == [False, True]
    assert set(rows["learning_rate"]) == {0.001}
    assert set(rows["steps"]) == {2}
    for row in rows.iter_rows(named=True):
        ranks = values(studied, row["method_id"], "self_influence_rank")
        top = values(studied, row["method_id"], "topk_similarity", "timbre")
        bottom = values(studied, row["method_id"], "bottomk_similarity", "timbre")
        assert row["targets"] == 3
        assert row["self_rank_mean"] == pytest.approx(ranks.mean())
        assert row["self_rank_median"] == np.median(ranks)
        assert row["share_rank_1"] == pytest.approx((ranks == 1).mean())
        assert row["topk_similarity"] == pytest.approx(top.mean())
        assert row["topk_clap"] == 9.0
        # Queries 0 and 2 choose, query 1 confirms.
        assert row["self_rank_choosing"] == pytest.approx(ranks[[0, 2]].mean())
        assert row["self_rank_confirming"] == pytest.approx(ranks[1])
        assert row["similarity_gap_choosing"] == pytest.approx((top - bottom)[[0, 2]].mean())
        assert (row["frechet_low"], row["frechet_distance"], row["frechet_high"]) == (1, 2, 3)
        assert (row["frechet_null_low"], row["frechet_null"], row["frechet_null_high"]) == (2, 4, 6)


@pytest.mark.parametrize("tied", [False, True])
def test_the_recommended_spec_follows_its_rule(studied: Tables, tmp_path: Path, tied: bool) -> None:
    if tied:
        studied["fct_evaluation"] = studied["fct_evaluation"].with_columns(
            value=pl.when(pl.col("metric") == "self_influence_rank").then(1.0).otherwise("value")
        )

    def key(method_id: str, half: list[int]) -> tuple[float, float, float]:
        gap = values(studied, method_id, "topk_similarity", "timbre") - values(
            studied, method_id, "bottomk_similarity", "timbre"
        )
        return (
            values(studied, method_id, "self_influence_rank")[half].mean(),
            -gap[half].mean(),
            values(studied, method_id, "heldout_loss_rise")[half].mean(),
        )

    studied["dim_method"] = studied["dim_method"].with_columns(method=pl.lit("fim_unlearning"))
    (row,) = ask(tmp_path, studied, "select * from v_recommended_spec").to_dicts()
    assert row["method_id"] == min(GROUPS, key=lambda m: key(m, [0, 2]))
    order = sorted(GROUPS, key=lambda m: key(m, [1]))
    assert row["place_confirming"] == 1 + order.index(row["method_id"])
    assert row["specs"] == 2


def test_nothing_is_recommended_among_several_methods(studied: Tables, tmp_path: Path) -> None:
    studied["dim_method"] = studied["dim_method"].with_columns(method=pl.col("method_id"))
    assert ask(tmp_path, studied, "select * from v_recommended_spec").is_empty()


def track_ranks(tables: Tables, query_id: str, method_id: str) -> dict[str, int]:
    """Track → rank by best segment among the tracks that the query is not from."""
    own = tables["dim_query"].filter(query_id=query_id)["segment_id"][0].partition(":")[0]
    scores: dict[str, float] = {}
    for row in (
        tables["fct_score"].filter(query_id=query_id, method_id=method_id).iter_rows(named=True)
    ):
        track = row["segment_id"].partition(":")[0]
        if track != own:
            scores[track] = max(scores.get(track, -np.inf), row["score"])
    order = sorted(scores, key=lambda t: (-scores[t], t))
    return {track: place for place, track in enumerate(order, start=1)}


def test_tracks_rank_by_their_best_segment_without_the_query_s_own(
    studied: Tables, tmp_path: Path
) -> None:
    rows = ask(tmp_path, studied, "select * from v_track_rank")
    for query_id, method_id in itertools.product(studied["dim_query"]["query_id"], GROUPS):
        found = rows.filter(query_id=query_id, method_id=method_id)
        assert dict(found.select("track_id", "track_rank").iter_rows()) == track_ranks(
            studied, query_id, method_id
        )


def test_version_recall_looks_both_ways(studied: Tables, tmp_path: Path) -> None:
    rows = ask(tmp_path, studied, "select * from v_version_recall order by method_id, query_id")
    # The query from the original finds the version, the one from the version the original.
    assert rows.select("query_id", "track_id").unique().sort("query_id").rows() == [
        ("c-001", "t05"),
        ("c-002", "t01"),
    ]
    assert set(rows["version_kind"]) == {"transposed"}
    summary = ask(tmp_path, studied, "select * from v_version_recall_summary order by method_id")
    for row in summary.iter_rows(named=True):
        ranks = np.array(
            [
                track_ranks(studied, "c-001", row["method_id"])["t05"],
                track_ranks(studied, "c-002", row["method_id"])["t01"],
            ]
        )
        assert row["renditions"] == 2
        assert row["median_rank"] == np.median(ranks)
        assert row["share_top_10"] == (ranks <= 10).mean()
        assert row["mean_reciprocal_rank"] == pytest.approx((1 / ranks).mean())


def top_ten(tables: Tables, query_id: str, method_id: str) -> set[str]:
    return {t for t, rank in track_ranks(tables, query_id, method_id).items() if rank <= 10}


def jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def test_overlap_of_methods_and_of_queries_is_jaccard_s(studied: Tables, tmp_path: Path) -> None:
    queries = studied["dim_query"]["query_id"].to_list()
    (row,) = ask(tmp_path, studied, "select * from v_top_overlap").to_dicts()
    lists = {(q, m): top_ten(studied, q, m) for q in queries for m in GROUPS}
    assert (row["method_id"], row["other_method_id"], row["queries"]) == ("m1", "m2", 3)
    expected = np.mean([jaccard(lists[q, "m1"], lists[q, "m2"]) for q in queries])
    assert row["jaccard"] == pytest.approx(expected)
    for row in ask(tmp_path, studied, "select * from v_query_overlap").iter_rows(named=True):
        mine = [lists[q, row["method_id"]] for q in queries]
        pairs = [jaccard(a, b) for a, b in itertools.combinations(mine, 2)]
        assert row["pairs"] == 3
        assert row["jaccard"] == pytest.approx(np.mean(pairs))
        assert row["distinct_tracks"] == len(set.union(*mine))


def test_disjoint_lists_count_as_no_overlap(studied: Tables, tmp_path: Path) -> None:
    # Each query and method has one track of its own far above the others, and one-track lists.
    few = [("c-000", "m1", "t02"), ("c-000", "m2", "t03"), ("c-001", "m1", "t04"),
           ("c-001", "m2", "t04")]  # fmt: skip
    studied["fct_score"] = pl.DataFrame(
        [
            {
                "query_id": q,
                "method_id": m,
                "segment_id": f"{t}:0000",
                "score": 1.0,
                "score_se": None,
                "rank": 1,
            }
            for q, m, t in few
        ],
        schema_overrides={"score_se": pl.Float64},
    )
    (row,) = ask(tmp_path, studied, "select * from v_top_overlap").to_dicts()
    assert row["jaccard"] == pytest.approx(0.5)
    overlaps = ask(tmp_path, studied, "select method_id, jaccard from v_query_overlap")
    assert overlaps["jaccard"].to_list() == [0.0, 0.0]


def test_concentration_is_averaged_over_queries(studied: Tables, tmp_path: Path) -> None:
    for row in ask(tmp_path, studied, "select * from v_concentration").iter_rows(named=True):
        assert row["gini"] == pytest.approx(values(studied, row["method_id"], "gini").mean())
        shares = values(studied, row["method_id"], "top_1pct_share")
        assert row["top_1pct_share"] == pytest.approx(shares.mean())


def test_specs_of_one_method_are_not_compared_with_each_other(
    studied: Tables, tmp_path: Path
) -> None:
    studied["dim_method"] = studied["dim_method"].with_columns(method=pl.lit("fim_unlearning"))
    assert ask(tmp_path, studied, "select * from v_method_agreement").is_empty()
    assert ask(tmp_path, studied, "select * from v_top_overlap").is_empty()


def test_agreement_is_averaged_within_a_cohort(studied: Tables, tmp_path: Path) -> None:
    # A second cohort with other scores, and a third that one method alone has scored.
    rng = np.random.default_rng(6)
    extra = [
        studied["dim_query"]
        .head(2)
        .with_columns(cohort=pl.lit(cohort), query_id=cohort + pl.col("query_id"))
        for cohort in ("d", "e")
    ]
    scores = [
        studied["fct_score"]
        .filter(pl.col("query_id").is_in(["c-000", "c-001"]))
        .with_columns(query_id=cohort + pl.col("query_id"))
        .with_columns(score=pl.Series(rng.integers(0, 6, 2 * 2 * 24).astype(float)))
        .filter((pl.col("method_id") == "m1") | (cohort != "e"))
        for cohort in ("d", "e")
    ]
    studied["dim_query"] = pl.concat([studied["dim_query"], *extra])
    studied["fct_score"] = pl.concat([studied["fct_score"], *scores])
    rows = ask(tmp_path, studied, "select * from v_method_agreement")
    assert set(rows["cohort"]) == {"c", "d"}
    means = rows.filter(pl.col("query_id").is_null())
    assert means.height == 2
    wide = studied["fct_score"].pivot("method_id", index=["query_id", "segment_id"], values="score")
    for row in means.iter_rows(named=True):
        queries = studied["dim_query"].filter(cohort=row["cohort"])["query_id"]
        pairs = [wide.filter(query_id=q).select("m1", "m2").to_numpy().T for q in queries]
        pearson = [stats.pearsonr(*pair).statistic for pair in pairs]
        spearman = [stats.spearmanr(*pair).statistic for pair in pairs]
        assert row["pearson"] == pytest.approx(np.mean(pearson))
        assert row["spearman"] == pytest.approx(np.mean(spearman))
        assert row["segments"] == 24 * len(queries)
