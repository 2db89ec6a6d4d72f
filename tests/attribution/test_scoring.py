"""From losses to scores: sign, pairing, errors, ranks."""

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from tda_dagster.attribution.scoring import (
    SCORE_SCHEMA,
    ScoringError,
    combined,
    rank_scores,
    robust_spread,
    robust_z,
    score_difference,
    score_skew,
)
from tda_dagster.attribution.sweep import LOSS_SCHEMA

BASE = {"a": [1.0, 2.0, 6.0], "b": [0.5, 0.5, 0.5], "c": [3.0, 2.0, 1.0]}
UNLEARNED = {"a": [1.0, 1.5, 6.1], "b": [1.5, 0.75, 0.5], "c": [3.0, 2.0, 1.0]}


def losses(values: dict[str, list[float]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "segment_id": name,
                "draw": draw,
                "timestep": 0.1 + 0.2 * draw,
                "loss": loss,
                "loss_valid": 2 * loss + draw,
            }
            for name, drawn in values.items()
            for draw, loss in enumerate(drawn)
        ],
        schema=LOSS_SCHEMA,
    )


def test_the_score_is_the_mean_rise_of_the_loss() -> None:
    scores = score_difference(losses(BASE), losses(UNLEARNED))
    assert dict(scores.schema) == SCORE_SCHEMA
    assert scores["segment_id"].to_list() == ["b", "c", "a"]
    assert scores["rank"].to_list() == [1, 2, 3]
    for row in scores.iter_rows(named=True):
        pairs = zip(UNLEARNED[row["segment_id"]], BASE[row["segment_id"]], strict=True)
        rises = [after - before for after, before in pairs]
        assert row["score"] == pytest.approx(statistics.mean(rises), abs=1e-12)
        assert row["score_se"] == pytest.approx(statistics.stdev(rises) / 3**0.5, abs=1e-12)


def test_larger_is_more_influential() -> None:
    scores = score_difference(losses({"a": [1.0], "b": [1.0]}), losses({"a": [0.9], "b": [1.2]}))
    assert scores["segment_id"].to_list() == ["b", "a"]
    assert scores["score"].to_list() == pytest.approx([0.2, -0.1])


def test_a_single_draw_has_no_standard_error() -> None:
    scores = score_difference(losses({"a": [1.0]}), losses({"a": [2.0]}))
    assert scores["score_se"].to_list() == [None]


def test_draws_are_paired_not_positions() -> None:
    generator = np.random.default_rng(0)
    base, unlearned = (
        losses({f"s{i}": list(generator.standard_normal(50)) for i in range(20)}) for _ in range(2)
    )
    expected = score_difference(base, unlearned)
    for _ in range(5):
        mixed = [frame[generator.permutation(1000)] for frame in (base, unlearned)]
        assert score_difference(*mixed).equals(expected)  # to the last bit


def test_equal_scores_are_ranked_by_segment() -> None:
    names = ["s10", "s2", "s1", "top", "s0"]
    base = losses({name: [1.0, 1.0] for name in names})
    after = losses({name: [1.5, 1.5] if name == "top" else [1.25, 1.25] for name in names})
    scores = score_difference(base, after)
    assert scores["segment_id"].to_list() == ["top", "s0", "s1", "s10", "s2"]
    assert scores["rank"].to_list() == [1, 2, 3, 4, 5]


def test_ranks_are_a_permutation_by_falling_score() -> None:
    values = np.random.default_rng(0).integers(-5, 5, 200) / 4
    frame = pl.DataFrame(
        {
            "segment_id": [f"s{i:03d}" for i in np.random.default_rng(1).permutation(200)],
            "score": values,
            "score_se": [None] * 200,
        },
        schema={n: t for n, t in SCORE_SCHEMA.items() if n != "rank"},
    )
    ranked = rank_scores(frame)
    assert ranked["rank"].to_list() == list(range(1, 201))
    rows = list(ranked.select("score", "segment_id").iter_rows())
    assert rows == sorted(rows, key=lambda row: (-row[0], row[1]))
    assert sorted(rows) == sorted(frame.select("score", "segment_id").iter_rows())


@pytest.mark.parametrize(
    ("base", "unlearned"),
    [
        (BASE, {"a": UNLEARNED["a"], "b": UNLEARNED["b"]}),
        ({"a": BASE["a"]}, UNLEARNED),
        (BASE, {**UNLEARNED, "c": [1.0, 2.0]}),
        (BASE, {**{n: UNLEARNED[n] for n in "ab"}, "d": UNLEARNED["c"]}),
    ],
    ids=["segment missing", "segments more", "draw missing", "other segment"],
)
def test_sweeps_over_different_pairs_are_refused(
    base: dict[str, list[float]], unlearned: dict[str, list[float]]
) -> None:
    with pytest.raises(ScoringError, match=r"different \(segment, draw\) pairs"):
        score_difference(losses(base), losses(unlearned))


def test_sweeps_under_different_noise_plans_are_refused() -> None:
    other = losses(UNLEARNED).with_columns(timestep=pl.col("timestep") + 1e-3)
    with pytest.raises(ScoringError, match="different noise plans"):
        score_difference(losses(BASE), other)


def test_a_pair_that_comes_twice_is_refused() -> None:
    twice = pl.concat([losses(BASE), losses(BASE).head(1)])
    for pair in ((twice, losses(UNLEARNED)), (losses(UNLEARNED), twice), (twice, twice)):
        with pytest.raises(ScoringError, match="twice"):
            score_difference(*pair)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ScoringError, match=r"segment b .*not finite.*learning_rate"):
        score_difference(losses(BASE), losses({**UNLEARNED, "b": [1.0, value, 1.0]}))


def test_the_skew_is_relative_to_both_losses() -> None:
    scores = score_skew(losses(BASE), losses(UNLEARNED))
    for row in scores.iter_rows(named=True):
        pairs = zip(UNLEARNED[row["segment_id"]], BASE[row["segment_id"]], strict=True)
        skews = [(after - before) / (after + before) for after, before in pairs]
        assert row["score"] == pytest.approx(statistics.mean(skews), abs=1e-9)
        assert -1 <= row["score"] <= 1


def test_the_skew_of_losses_of_zero_is_zero() -> None:
    scores = score_skew(losses({"a": [0.0]}), losses({"a": [0.0]}))
    assert scores["score"].to_list() == [0.0]


@pytest.mark.parametrize("scorer", [score_difference, score_skew])
def test_masked_scores_compare_the_losses_over_valid_frames(scorer: Callable[..., Any]) -> None:
    base, unlearned = losses(BASE), losses(UNLEARNED)
    masked = scorer(base, unlearned, mask_padding=True)
    swapped = [
        f.with_columns(loss=pl.col("loss_valid"), loss_valid=pl.col("loss"))
        for f in (base, unlearned)
    ]
    assert masked.equals(scorer(*swapped))


@pytest.mark.parametrize("scorer", [score_difference, score_skew])
def test_only_draws_that_are_noisy_enough_count(scorer: Callable[..., Any]) -> None:
    base, unlearned = losses(BASE), losses(UNLEARNED)
    noisy = [f.filter(pl.col("draw") >= 1) for f in (base, unlearned)]
    assert scorer(base, unlearned, timestep_min=0.2).equals(scorer(*noisy))
    with pytest.raises(ScoringError, match=r"scoring\.timestep_min: 0.9 leaves no draw"):
        scorer(base, unlearned, timestep_min=0.9)


def test_the_base_may_have_more_draws() -> None:
    base, unlearned = losses(BASE), losses(UNLEARNED)
    some = unlearned.filter(pl.col("draw") == 1)
    assert score_difference(base, some).equals(
        score_difference(base.filter(pl.col("draw") == 1), some)
    )


def scores_of(values: np.ndarray, errors: np.ndarray | None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "segment_id": [f"s{number:03d}" for number in range(len(values))],
            "score": values,
            "score_se": errors,
        },
        schema_overrides={"score_se": pl.Float64},
    )


class TestCombined:
    generator = np.random.default_rng(3)
    first = scores_of(5 + 2 * generator.normal(size=101), np.full(101, 0.4))
    second = scores_of(-1 + 30 * generator.normal(size=101), np.full(101, 9.0))

    def test_it_is_the_mean_of_both_in_units_of_their_bulks(self) -> None:
        found = combined(self.first, self.second.reverse())
        expected = 0.0
        for frame in (self.first, self.second):
            values = frame["score"].to_numpy()
            apart = values - np.median(values)
            expected = expected + apart / (1.4826 * np.median(np.abs(apart))) / 2
        assert found["rank"].to_list() == list(range(1, 102))
        np.testing.assert_allclose(found.sort("segment_id")["score"], expected)

    def test_neither_scale_nor_offset_of_either_matters(self) -> None:
        other = self.second.with_columns(pl.col("score") * 7 - 3, pl.col("score_se") * 7)
        one, two = combined(self.first, self.second), combined(self.first, other)
        assert one["segment_id"].equals(two["segment_id"])
        for name in ("score", "score_se"):
            np.testing.assert_allclose(one[name], two[name])

    def test_errors_add_as_those_of_a_mean_of_two(self) -> None:
        found = combined(self.first, self.second)
        spreads = [
            float(robust_spread(f["score"].to_numpy())[0]) for f in (self.first, self.second)
        ]
        expected = np.hypot(0.4 / spreads[0], 9.0 / spreads[1]) / 2
        np.testing.assert_allclose(found["score_se"], expected)
        unknown = combined(self.first, scores_of(self.second["score"].to_numpy(), None))
        assert unknown["score_se"].null_count() == 101

    def test_scores_that_are_all_alike_say_nothing(self) -> None:
        level = scores_of(np.ones(101), np.zeros(101))
        found = combined(self.first, level).sort("segment_id")
        np.testing.assert_allclose(
            found["score"], robust_z(self.first["score"].to_numpy()) / 2, atol=1e-12
        )
