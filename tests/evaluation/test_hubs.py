"""Diagnostics of score matrices against brute force and against what they must be."""

import itertools

import numpy as np
import pytest
from scipy import stats

from tda_dagster.evaluation.hubs import (
    TOP,
    Independence,
    first_direction_share,
    independence,
    mean_rank_correlation,
    occurrence_skewness,
    occurrences,
)

RNG = np.random.default_rng(3)
SCORES = RNG.normal(size=(6, 50)) * RNG.uniform(0.1, 9, (6, 1)) + RNG.normal(size=(6, 1))
COMMON = RNG.normal(size=50)
TIED = np.round(SCORES)


@pytest.mark.parametrize("scores", [SCORES, TIED, SCORES + 3 * COMMON])
def test_rank_correlation_is_the_mean_over_pairs(scores: np.ndarray) -> None:
    pairs = itertools.combinations(scores, 2)
    expected = np.mean([stats.spearmanr(one, other).statistic for one, other in pairs])
    assert mean_rank_correlation(scores) == pytest.approx(expected)


@pytest.mark.parametrize("scores", [SCORES, TIED, SCORES + 3 * COMMON])
def test_first_direction_share_is_that_of_the_singular_values(scores: np.ndarray) -> None:
    standard = stats.zscore(scores, axis=1)
    values = np.linalg.svd(standard, compute_uv=False)
    expected = values[0] ** 2 / (values**2).sum()
    assert first_direction_share(scores) == pytest.approx(expected)


def test_scores_that_ignore_the_query_are_one_direction() -> None:
    scale = np.array([[1.0], [5.0], [0.01], [1e6]])
    found = independence(scale * COMMON + scale)
    assert found is not None
    assert found.first_direction_share == pytest.approx(1)
    assert found.rank_correlation == pytest.approx(1)
    assert found.largest_occurrence == 1
    # TOP of the 50 segments are in all four lists, the others in none.
    p = TOP / 50
    assert found.occurrence_skewness == pytest.approx((1 - 2 * p) / np.sqrt(p * (1 - p)))


def test_independent_scores_are_as_random_matrices_have_it() -> None:
    queries, segments = 40, 1000
    found = independence(np.random.default_rng(0).normal(size=(queries, segments)))
    assert found is not None
    edge = (queries**-0.5 + segments**-0.5) ** 2
    assert found.first_direction_share == pytest.approx(edge, rel=0.1)
    assert abs(found.rank_correlation) < 0.01
    assert abs(found.occurrence_skewness) < 2
    assert found.largest_occurrence < 0.25


def test_opposite_scores_are_one_direction_but_no_common_ranking() -> None:
    scores = np.stack([COMMON, -COMMON, 2 * COMMON, -3 * COMMON])
    assert first_direction_share(scores) == pytest.approx(1)
    assert mean_rank_correlation(scores) == pytest.approx((2 - 4) / 6)


def test_neither_scale_nor_offset_of_a_query_matter() -> None:
    moved = SCORES * np.array([[3.0], [0.5], [1e4], [1.0], [7.0], [0.01]]) - 4
    one, other = independence(SCORES), independence(moved)
    assert one is not None
    assert other is not None
    for name in Independence.__dataclass_fields__:
        assert getattr(one, name) == pytest.approx(getattr(other, name)), name


@pytest.mark.parametrize("scores", [SCORES, TIED])
@pytest.mark.parametrize("k", [1, 7, TOP, 50, 99])
def test_occurrences_are_counted_in_the_lists(scores: np.ndarray, k: int) -> None:
    expected = [0] * scores.shape[1]
    for row in scores:
        order = sorted(range(len(row)), key=lambda segment: (-row[segment], segment))
        for segment in order[:k]:
            expected[segment] += 1
    assert occurrences(scores, k).tolist() == expected


def test_skewness_is_the_third_standardised_moment() -> None:
    counts = occurrences(SCORES, 7)
    deviations = counts - counts.mean()
    expected = (deviations**3).mean() / (deviations**2).mean() ** 1.5
    assert occurrence_skewness(counts) == pytest.approx(expected)
    assert occurrence_skewness(np.full(9, 3)) == 0


def test_a_query_without_an_order_correlates_with_none() -> None:
    flat = np.vstack([SCORES, np.full(50, 0.1)])
    pairs = len(SCORES) * (len(SCORES) - 1) / 2
    expected = mean_rank_correlation(SCORES) * pairs / (pairs + len(SCORES))
    assert mean_rank_correlation(flat) == pytest.approx(expected)
    assert first_direction_share(flat) == pytest.approx(first_direction_share(SCORES))
    assert first_direction_share(np.full((3, 9), 0.1)) == 0
    assert mean_rank_correlation(np.full((3, 9), 0.1)) == 0


@pytest.mark.parametrize("shape", [(1, 9), (3, 1)])
def test_one_query_or_segment_shows_nothing(shape: tuple[int, int]) -> None:
    assert independence(np.zeros(shape)) is None
