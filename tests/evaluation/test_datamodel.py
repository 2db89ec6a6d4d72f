"""The linear datamodelling score against what it is defined to be."""

import itertools

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from tda_dagster.evaluation.counterfactual import most_attributed, random_subsets
from tda_dagster.evaluation.datamodel import (
    by_subset,
    datamodelling_scores,
    group_scores,
    mean_datamodelling_score,
    noise_ceiling,
)

QUERIES, SEGMENTS, SUBSETS = 5, 30, 16


@pytest.fixture(scope="module")
def kept() -> np.ndarray:
    return np.random.default_rng(0).random((SUBSETS, SEGMENTS)) < 0.5


@pytest.fixture(scope="module")
def effects() -> np.ndarray:
    """What each segment really takes off each query's loss, in a world where effects add up."""
    return np.random.default_rng(1).normal(size=(QUERIES, SEGMENTS))


def test_the_true_effects_of_subsets_have_a_score_of_one(
    kept: np.ndarray, effects: np.ndarray
) -> None:
    losses = 3.0 - effects @ kept.T
    assert datamodelling_scores(group_scores(effects, kept), losses) == pytest.approx(1)
    assert datamodelling_scores(group_scores(-effects, kept), losses) == pytest.approx(-1)
    interval = mean_datamodelling_score(group_scores(effects, kept), losses, resamples=50)
    assert (interval.low, interval.value, interval.high) == pytest.approx((1, 1, 1))


def test_it_is_spearmans_correlation_of_sums_and_negative_losses(
    kept: np.ndarray, effects: np.ndarray
) -> None:
    losses = np.random.default_rng(2).normal(size=(QUERIES, SUBSETS)).round(1)  # with ties
    found = datamodelling_scores(group_scores(effects, kept), losses)
    for query in range(QUERIES):
        sums = [effects[query, members].sum() for members in kept]
        assert found[query] == pytest.approx(spearmanr(sums, -losses[query]).statistic)


def test_scores_without_any_order_foretell_nothing(kept: np.ndarray) -> None:
    flat = np.zeros((1, SUBSETS))
    losses = np.random.default_rng(3).normal(size=(1, SUBSETS))
    assert datamodelling_scores(flat, losses) == [0]


def test_the_interval_covers_the_mean_of_the_population() -> None:
    """Over many worlds of the same kind, about 95 in 100 intervals hold the mean of them all."""
    generator = np.random.default_rng(4)
    values, covered = [], []
    for world in range(120):
        truth = generator.normal(size=(8, 24))
        guess = truth + 1.5 * generator.normal(size=(8, 24))
        found = mean_datamodelling_score(guess, -truth, resamples=200, seed=world)
        values.append(found.value)
        covered.append((found.low, found.high))
    mean = np.mean(values)
    assert np.mean([low <= mean <= high for low, high in covered]) > 0.85


def test_the_noise_ceiling_is_what_exact_scores_reach() -> None:
    """Losses are a truth and chance: the truth's own score is the ceiling, which repeats tell."""
    generator = np.random.default_rng(5)
    truth = generator.normal(size=(60, 200))
    losses = truth + generator.normal(size=(2, 60, 200))
    exact = datamodelling_scores(truth, -losses.mean(axis=0)).mean()
    assert noise_ceiling(losses) == pytest.approx(exact, abs=0.03)
    assert noise_ceiling(generator.normal(size=(2, 60, 200))) < 0.25
    with pytest.raises(ValueError, match="two trainings"):
        noise_ceiling(losses[:1])


def test_losses_are_laid_out_by_repeat_query_and_subset() -> None:
    places = itertools.product(range(2), range(3), ["b", "a"], range(4))
    table = pl.DataFrame(
        [
            {"repeat": r, "subset": s, "query_id": q, "draw": d, "loss": 100 * r + 10 * s + d}
            for r, s, q, d in places
        ]
    ).with_columns(pl.col("loss") + 1000 * (pl.col("query_id") == "b"))
    found = by_subset(table.sample(fraction=1, shuffle=True, seed=0), ["a", "b"])
    assert found.shape == (2, 2, 3)
    assert found[1, 0, 2] == 100 + 20 + 1.5
    assert (found[:, 1] - found[:, 0] == 1000).all()


def test_subsets_are_random_halves_that_only_their_number_and_the_seed_decide() -> None:
    tracks = [f"t{number:02d}" for number in range(21)]
    subsets = random_subsets(tracks, 40, 0.5, seed=1)
    assert all(len(set(subset)) == 10 and set(subset) <= set(tracks) for subset in subsets)
    assert random_subsets(tracks[::-1], 3, 0.5, seed=1) == subsets[:3]
    assert random_subsets(tracks, 1, 0.5, seed=2) != subsets[:1]
    share = np.mean([[track in subset for track in tracks] for subset in subsets], axis=0)
    assert (abs(share - 10 / 21) < 0.25).all()


def test_the_most_attributed_tracks_have_the_largest_sums() -> None:
    segments = pl.DataFrame(
        {"segment_id": ["a0", "a1", "b0", "c0", "d0"], "track_id": ["a", "a", "b", "c", "d"]}
    )
    scores = pl.DataFrame(
        {"segment_id": ["d0", "c0", "b0", "a1", "a0"], "score": [1.0, 2.5, 2.5, 2.0, 1.0]}
    )
    assert most_attributed(scores, segments, 3) == ("a", "b", "c")
