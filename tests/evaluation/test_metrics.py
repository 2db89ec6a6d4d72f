"""Figures about an attribution against their definitions."""

import numpy as np
import polars as pl
import pytest

from tda_dagster.attribution.scoring import score_difference
from tda_dagster.evaluation.metrics import (
    EVALUATION_SCHEMA,
    gini,
    half_coverage,
    loss_rise,
    relative_loss_rises,
    row,
    self_rank,
    similarity_of_extremes,
    top_share,
)


def losses(values: dict[str, list[float]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"segment_id": name, "draw": draw, "timestep": 0.1 + draw, "loss": loss}
            for name, drawn in values.items()
            for draw, loss in enumerate(drawn)
        ]
    )


def test_loss_rise_is_the_mean_over_segments_and_draws() -> None:
    before = losses({"a": [1.0, 2.0], "b": [3.0, 4.0], "c": [5.0, 6.0]})
    after = losses({"c": [5.0, 8.0], "a": [1.5, 2.0], "b": [0.0, 0.0]})
    assert loss_rise(before, after, pl.Series(["a", "c"])) == pytest.approx((0.5 + 2) / 4)
    assert loss_rise(before, after, pl.Series(["b"])) == pytest.approx(-3.5)
    assert loss_rise(before, before, pl.Series(["a", "b", "c"])) == 0
    assert loss_rise(after, before, pl.Series(["a", "c"])) == pytest.approx(-(0.5 + 2) / 4)


def test_relative_loss_rises_are_ratios_of_means_by_query_and_number_of_tracks() -> None:
    drawn = {("a", 2): ([3.0, 5.0], [1.0, 3.0]), ("a", 8): ([1.0, 2.0], [1.0, 3.0]),
             ("b", 2): ([0.5, 0.5], [0.5, 0.5])}  # fmt: skip
    made = [
        {"query_id": query, "tracks": tracks, "loss": loss, "loss_base": base}
        for (query, tracks), pairs in drawn.items()
        for loss, base in zip(*pairs, strict=True)
    ]
    found = relative_loss_rises(pl.DataFrame(made).sample(fraction=1.0, shuffle=True, seed=1))
    assert dict(zip(found.select("query_id", "tracks").rows(), found["rise"], strict=True)) == {
        ("a", 2): pytest.approx(1.0),
        ("a", 8): pytest.approx(-0.25),
        ("b", 2): 0,
    }


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 0.5, 1.0])
def test_top_share_is_what_the_largest_hold(fraction: float) -> None:
    scores = np.random.default_rng(0).standard_normal(200)
    count = max(1, round(200 * fraction))
    largest = sorted((max(score, 0.0) for score in scores), reverse=True)
    expected = sum(largest[:count]) / sum(largest)
    assert top_share(pl.Series(scores), fraction) == pytest.approx(expected)


def test_top_share_of_equal_scores_is_the_fraction() -> None:
    assert top_share(pl.Series([0.25] * 100), 0.07) == pytest.approx(0.07)


def test_top_share_without_influence_is_nothing() -> None:
    assert top_share(pl.Series([-1.0, 0.0, -3.0]), 0.5) == 0


def test_self_rank_is_the_rank_of_the_segment_itself() -> None:
    scores = pl.DataFrame({"segment_id": ["b", "a", "c"], "rank": [1, 2, 3]})
    assert [self_rank(scores, name) for name in "abc"] == [2, 1, 3]
    assert self_rank(scores, "not-a-training-segment") is None


def test_a_figure_is_a_row_of_the_table() -> None:
    plain = row("attribution", "query-1", "rank", 3)
    full = row(
        "attribution",
        "query-2",
        "loss",
        0.5,
        method_id="fim",
        unit="dB",
        direction="lower",
        detail="train",
    )
    frame = pl.DataFrame([plain, full], schema=EVALUATION_SCHEMA)
    assert frame["value"].to_list() == [3.0, 0.5]
    assert frame["method_id"].to_list() == [None, "fim"]
    assert frame["direction"].to_list() == ["none", "lower"]


class TestGini:
    def test_it_is_half_the_relative_mean_difference(self) -> None:
        scores = np.random.default_rng(1).standard_normal(60)
        positive = np.maximum(scores, 0)
        differences = np.abs(positive[:, None] - positive[None, :]).mean()
        assert gini(pl.Series(scores)) == pytest.approx(differences / (2 * positive.mean()))

    def test_equality_and_monopoly_are_its_ends(self) -> None:
        assert gini(pl.Series([0.2] * 50)) == pytest.approx(0)
        assert gini(pl.Series([0.0, -5.0, 3.0, 0.0])) == pytest.approx(3 / 4)

    def test_neither_scale_nor_order_matters(self) -> None:
        scores = pl.Series(np.random.default_rng(2).standard_normal(30))
        assert gini(100 * scores) == pytest.approx(gini(scores))
        assert gini(scores.reverse()) == pytest.approx(gini(scores))

    def test_no_influence_is_not_uneven(self) -> None:
        assert gini(pl.Series([-1.0, 0.0])) == 0


class TestSimilarityOfExtremes:
    segments = pl.DataFrame(
        {
            "track_id": ["a", "b", "a", "c", "d", "b", "d"],
            "score": [0.1, 0.9, 0.7, -3.0, 0.2, -9.0, 0.0],
            "similarity": [0.9, 0.5, 0.3, 0.1, -0.2, 1.0, 0.8],
        }
    )

    @pytest.mark.parametrize(
        ("k", "most", "least"), [(1, 0.5, 0.1), (2, 0.4, -0.05), (4, 0.175, 0.175)]
    )
    def test_tracks_stand_where_their_best_segment_stands(
        self, k: int, most: float, least: float
    ) -> None:
        assert similarity_of_extremes(self.segments, k) == pytest.approx((most, least))
        assert similarity_of_extremes(self.segments.reverse(), k) == pytest.approx((most, least))

    def test_fewer_tracks_than_asked_for_are_all_taken(self) -> None:
        assert similarity_of_extremes(self.segments, 99) == pytest.approx((0.175, 0.175))

    def test_equal_scores_are_ordered_by_track(self) -> None:
        level = self.segments.with_columns(score=pl.lit(0.0))
        assert similarity_of_extremes(level, 1) == pytest.approx((0.9, 0.8))
        assert similarity_of_extremes(level.reverse(), 1) == pytest.approx((0.9, 0.8))


def random_sweep(
    generator: np.random.Generator, segments: int, draws: int, rise: float
) -> pl.DataFrame:
    places = [(f"s{i:04d}", k) for i in range(segments) for k in range(draws)]
    return pl.DataFrame(
        {
            "segment_id": [segment for segment, _ in places],
            "draw": [draw for _, draw in places],
            "timestep": [(draw + 0.5) / draws for _, draw in places],
            "loss": rise + generator.normal(size=len(places)),
        }
    )


class TestHalfCoverage:
    def test_right_errors_cover_and_too_small_ones_do_not(self) -> None:
        generator = np.random.default_rng(0)
        before, after = (random_sweep(generator, 2000, 40, rise) for rise in (1.0, 1.3))
        found = half_coverage(score_difference, before, after)
        # Normal differences of known size; errors estimated from 20 draws each cost a little.
        assert found == pytest.approx(0.945, abs=0.015)

        def overconfident(base: pl.DataFrame, unlearned: pl.DataFrame) -> pl.DataFrame:
            return score_difference(base, unlearned).with_columns(pl.col("score_se") / 3)

        narrow = half_coverage(overconfident, before, after)
        assert narrow == pytest.approx(0.49, abs=0.05)  # of a normal, within 1.96 / 3

    def test_a_score_that_depends_on_the_draw_is_not_covered(self) -> None:
        generator = np.random.default_rng(0)
        before, after = (random_sweep(generator, 50, 40, rise) for rise in (1.0, 1.3))
        tilted = after.with_columns(pl.col("loss") + 9.0 * (pl.col("draw") % 2))
        found = half_coverage(score_difference, before, tilted)
        assert found is not None
        assert found < 0.1

    def test_halves_of_one_draw_have_no_errors(self) -> None:
        generator = np.random.default_rng(0)
        before, after = (random_sweep(generator, 5, 3, rise) for rise in (1.0, 1.3))
        assert half_coverage(score_difference, before, after) is None
