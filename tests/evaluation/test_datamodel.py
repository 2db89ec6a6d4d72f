"""The linear datamodelling score against what it is defined to be."""

import itertools

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from tda_dagster.attribution.scoring import evidence
from tda_dagster.evaluation.counterfactual import most_attributed, random_subsets
from tda_dagster.evaluation.datamodel import (
    Estimate,
    by_subset,
    datamodelling_scores,
    group_scores,
    halves,
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
    found = mean_datamodelling_score(group_scores(effects, kept), losses, resamples=50)
    assert (found.value, *found.interval) == pytest.approx((1, 1, 1))


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
        covered.append(found.interval)
    mean = np.mean(values)
    assert np.mean([low <= mean <= high for low, high in covered]) > 0.85


def test_the_interval_of_a_difference_covers_it_and_leaves_out_what_is_hard_for_both() -> None:
    """Where two methods err alike, their difference is known better than either of them."""
    generator = np.random.default_rng(5)
    differences, covered, ratios = [], [], []
    for world in range(120):
        truth, common = generator.normal(size=(2, 8, 24))
        guesses = [
            truth + 1.5 * common + own * generator.normal(size=(8, 24)) for own in (0.2, 0.6)
        ]
        one, other = (
            mean_datamodelling_score(guess, -truth, resamples=200, seed=world) for guess in guesses
        )
        apart = Estimate(one.value - other.value, one.resamples - other.resamples)
        low, high = apart.interval
        differences.append(apart.value)
        covered.append((low, high))
        ratios.append((high - low) / np.subtract(*one.interval[::-1]))
    mean = np.mean(differences)
    assert np.mean([low <= mean <= high for low, high in covered]) > 0.85
    assert np.mean(ratios) < 0.8


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


def test_the_most_attributed_tracks_have_most_evidence_then_the_best_score() -> None:
    tracks = {
        "a": [4.0, 4.0],
        "b": [7.0],
        "c": [1.0],
        "d": [0.5],
        **{f"n{i}": [0.0, -1.0, 1.0] for i in range(9)},
    }
    rows = [(f"{t}:{i}", t, s) for t, values in tracks.items() for i, s in enumerate(values)]
    segments = pl.DataFrame({"segment_id": [r[0] for r in rows], "track_id": [r[1] for r in rows]})
    scores = pl.DataFrame(
        {"segment_id": [r[0] for r in rows], "score": [r[2] for r in rows]}
    ).sample(fraction=1, shuffle=True, seed=0)
    # In units of the bulk, 7 is 4.7 and 4 is 2.7: beyond 3 there is evidence of b alone, and all
    # others go by their best score and their id; beyond 0.5 there is more of a, twice 2.2.
    assert most_attributed(scores, segments, 4, threshold_z=3.0) == ("b", "a", "c", "n0")
    assert most_attributed(scores, segments, 2, threshold_z=0.5) == ("a", "b")


def test_evidence_is_what_exceeds_the_threshold_in_units_of_the_bulk() -> None:
    generator = np.random.default_rng(6)
    bulk = generator.normal(size=(1, 100001))
    scores = np.concatenate([10 + 3 * bulk, [[10 + 3 * 7.0]]], axis=1)
    found = evidence(scores, 2.0)
    assert found[0, -1] == pytest.approx(5.0, abs=0.1)
    # Of a normal bulk 2.3 % lie above 2, by 0.0085 on average over all.
    assert (found > 0).mean() == pytest.approx(0.0228, abs=0.003)
    assert found.mean() == pytest.approx(0.0085, abs=0.001)
    assert (evidence(np.ones((2, 5)), 0.0) == 0).all()


@pytest.mark.parametrize(("queries", "subsets"), [(64, 64), (5, 2), (2, 3)])
def test_what_confirms_has_no_query_and_no_subset_that_something_was_chosen_on(
    queries: int, subsets: int
) -> None:
    parts = halves(queries, subsets)
    for axis, count in enumerate((queries, subsets)):
        chosen, confirming = (list(range(count))[part[axis]] for part in parts.values())
        assert chosen + confirming == list(range(count))
        assert 0 <= len(chosen) - len(confirming) <= 1


def test_a_bench_of_twice_the_size_confirms_on_what_is_new_alone() -> None:
    queries, subsets = halves(2 * QUERIES, 2 * SUBSETS)["choosing"]
    assert list(range(2 * QUERIES))[queries] == list(range(QUERIES))
    assert list(range(2 * SUBSETS))[subsets] == list(range(SUBSETS))


@pytest.mark.parametrize(("queries", "subsets"), [(1, 9), (9, 1)])
def test_what_cannot_be_halved_has_no_halves(queries: int, subsets: int) -> None:
    assert halves(queries, subsets) == {}
