"""Payout error, against games whose values are known."""

import itertools

import numpy as np
import polars as pl
import pytest

from tda_dagster.evaluation.payout import (
    Game,
    Values,
    Weighed,
    agreement,
    correlation,
    coverage,
    fitted_exponent,
    fitted_spread,
    fitted_support,
    leave_one_out,
    linear_values,
    payout_error,
    pro_rata,
    rank_correlation,
    read_games,
    reliability,
    true_shares,
)

PARTIES = 5


def every_coalition(parties: int = PARTIES) -> np.ndarray:
    return np.array(list(itertools.product([False, True], repeat=parties)))


def additive(present: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Losses [queries, coalitions] of games in which every party lowers the loss by its weight."""
    return 7.0 - weights @ present.T.astype(float)


def banzhaf(worth: dict[frozenset[int], float], party: int) -> float:
    """The mean of what a party adds to all coalitions without it, by the definition."""
    others = [p for p in range(PARTIES) if p != party]
    added = [
        worth[frozenset(rest) | {party}] - worth[frozenset(rest)]
        for size in range(PARTIES)
        for rest in itertools.combinations(others, size)
    ]
    return float(np.mean(added))


def test_exact_scores_have_no_payout_error_in_an_additive_game() -> None:
    weights = np.array([[1.0, 2.0, 3.0, 4.0, 0.0], [5.0, 0.0, 0.0, 1.0, 2.0]])
    present = every_coalition()
    present = present[present.sum(axis=1) >= 3]
    values = linear_values(present, additive(present, weights))
    np.testing.assert_allclose(values.value, weights, atol=1e-12)
    np.testing.assert_allclose(values.error, 0, atol=1e-10)
    shares = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(payout_error(shares, true_shares(values.value)), 0, atol=1e-12)


def test_over_all_coalitions_the_values_are_banzhafs() -> None:
    chance = np.random.default_rng(0)
    present = every_coalition()
    worth = chance.normal(size=len(present))
    by_set = {
        frozenset(np.flatnonzero(row).tolist()): float(value)
        for row, value in zip(present, worth, strict=True)
    }
    values = linear_values(present, -worth[None])
    expected = [banzhaf(by_set, party) for party in range(PARTIES)]
    np.testing.assert_allclose(values.value[0], expected, atol=1e-12)


def test_standard_errors_cover_the_values_of_a_noisy_game() -> None:
    chance = np.random.default_rng(1)
    weights = chance.uniform(0, 1, size=(400, PARTIES))
    present = chance.random((60, PARTIES)) < 0.6
    # Coalitions whose losses scatter unequally: small ones three times as far.
    spread = np.where(present.sum(axis=1) < 3, 0.6, 0.2)
    losses = additive(present, weights) + chance.normal(size=(400, 60)) * spread
    values = linear_values(present, losses)
    inside = np.abs(values.value - weights) < 1.96 * values.error
    assert 0.92 < inside.mean() < 0.98


def test_coalitions_that_cannot_tell_parties_apart_are_refused() -> None:
    present = every_coalition()
    present[:, 1] = present[:, 0]
    with pytest.raises(ValueError, match="32 coalitions cannot tell 5 parties apart"):
        linear_values(present, np.zeros((1, len(present))))


def test_values_below_zero_get_nothing_and_a_query_without_any_value_has_no_shares() -> None:
    shares = true_shares(np.array([[3.0, -1.0, 1.0], [-1.0, 0.0, -2.0]]))
    np.testing.assert_allclose(shares[0], [0.75, 0, 0.25])
    assert np.isnan(shares[1]).all()


def test_payout_error_is_the_part_paid_to_the_wrong_parties() -> None:
    paid = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    truth = np.array([[0.4, 0.4, 0.2], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(payout_error(paid, truth), [0.1, 1.0])


def test_pro_rata_pays_by_a_power_of_the_sizes() -> None:
    sizes = np.array([1.0, 4.0, 16.0])
    np.testing.assert_allclose(pro_rata(sizes), sizes / 21)
    np.testing.assert_allclose(pro_rata(sizes, 0.5), np.array([1, 2, 4]) / 7)
    np.testing.assert_allclose(pro_rata(sizes, 0), [1 / 3] * 3)
    truth = np.tile(pro_rata(sizes, 0.6), (8, 1))
    assert fitted_exponent(sizes, truth) == pytest.approx(0.6)


def toy_game(repeats: int = 2, noise: float = 0.0) -> tuple[Game, np.ndarray]:
    chance = np.random.default_rng(2)
    weights = chance.uniform(0.2, 1, size=(6, PARTIES))
    present = every_coalition()
    present = present[present.sum(axis=1) >= 3]
    losses = additive(present, weights)
    noisy = losses + noise * chance.normal(size=(repeats, *losses.shape))
    names = tuple(f"p{n}" for n in range(PARTIES))
    queries = tuple(f"q{n}" for n in range(6))
    return Game(names, queries, present, noisy, np.ones(PARTIES)), weights


def test_leaving_one_out_is_what_the_last_party_adds() -> None:
    game, weights = toy_game()
    np.testing.assert_allclose(leave_one_out(game), weights, atol=1e-12)


def test_an_exact_truth_agrees_with_itself_and_a_noisy_one_less() -> None:
    exact = reliability(toy_game()[0], resamples=20)
    assert (exact.halves, exact.seeds) == pytest.approx((1, 1))
    assert exact.exact_error == pytest.approx(0, abs=1e-9)
    noisy = reliability(toy_game(noise=0.5)[0], resamples=20)
    assert noisy.halves < 0.9
    assert noisy.seeds < 0.95
    assert noisy.exact_error > 0.02


def test_the_error_of_exact_shares_is_estimated() -> None:
    """What exact shares would be measured to have, against what they do have."""
    game, weights = toy_game(noise=0.15)
    measured = true_shares(linear_values(game.present, game.mean_losses).value)
    actual = payout_error(weights / weights.sum(axis=1, keepdims=True), measured).mean()
    assert reliability(game, resamples=100).exact_error == pytest.approx(actual, rel=0.5)


def test_two_estimates_of_the_same_values_agree_in_about_95_of_100_cases() -> None:
    chance = np.random.default_rng(3)
    weights = chance.uniform(0, 1, size=(300, PARTIES))
    found = []
    for _ in range(2):
        # Parts of catalogues, as random subsets of the tracks keep them.
        kept = chance.random((60, PARTIES))
        losses = additive(kept, weights) + 0.2 * chance.normal(size=(300, 60))
        found.append(linear_values(kept, losses))
    assert 0.92 < agreement(*found) < 0.98
    moved = Values(found[1].value + 4 * found[1].error, found[1].error)
    assert agreement(found[0], moved) < 0.4


def test_where_coalitions_are_few_only_the_reliability_is_unknown() -> None:
    game, weights = toy_game()
    few = game.present.sum(axis=1) >= PARTIES - 1
    small = Game(
        game.parties, game.queries, game.present[few], game.losses[:, :, few], game.segments
    )
    values = linear_values(small.present, small.mean_losses).value
    np.testing.assert_allclose(values, weights, atol=1e-12)
    assert np.isnan(reliability(small, resamples=5).halves)


def test_the_weight_of_evidence_with_the_least_payout_error_is_found() -> None:
    chance = np.random.default_rng(4)
    evidence = chance.dirichlet(np.ones(PARTIES), size=50)
    by_size = np.tile(pro_rata(np.arange(1.0, PARTIES + 1)), (50, 1))
    game = Weighed(evidence, by_size, 0.3 * evidence + 0.7 * by_size)
    other = Weighed(evidence, by_size, 0.34 * evidence + 0.66 * by_size)
    assert fitted_support([game]) == pytest.approx(0.3)
    assert 0.3 <= fitted_support([game, other]) <= 0.34
    assert fitted_support([Weighed(evidence, by_size, by_size)]) == 0


def test_evidence_that_is_better_by_chance_alone_has_no_weight() -> None:
    chance = np.random.default_rng(6)
    truth, evidence = chance.dirichlet(np.ones(PARTIES), size=(2, 40))
    by_size = np.full_like(truth, 1 / PARTIES)
    unrelated = Weighed(evidence, by_size, truth)
    weights = np.linspace(0, 1, 101)
    errors = [payout_error(unrelated.payout(w), truth).mean() for w in weights]
    assert int(np.argmin(errors)) > 0  # some weight is a little better here
    assert fitted_support([unrelated]) == 0


def test_intervals_cover_ninety_of_a_hundred_true_shares_of_new_queries() -> None:
    chance = np.random.default_rng(5)

    def queries(count: int) -> Weighed:
        truth = chance.dirichlet(np.ones(PARTIES), size=count)
        noisy = np.maximum(truth + 0.05 * chance.normal(size=truth.shape), 1e-3)
        return Weighed(noisy / noisy.sum(axis=1, keepdims=True), np.full_like(truth, 0.2), truth)

    spread = fitted_spread([queries(200)], 1.0, 0.01)
    unseen = queries(400)
    paid = unseen.payout(1.0)
    reach = spread * np.sqrt(paid * (1 - paid) + 0.01)
    assert 0.88 < coverage(paid - reach, paid + reach, unseen.truth) < 0.92


def test_coverage_counts_true_shares_within_their_intervals() -> None:
    truth = np.array([[0.5, 0.5], [np.nan, np.nan], [0.9, 0.1]])
    assert coverage(truth - 0.1, truth + np.array([0.1, -0.05]), truth) == 0.5


def test_correlations_are_within_a_query() -> None:
    one = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    other = np.array([[10.0, 20.0, 90.0], [1.0, 2.0, 3.0]])
    expected = np.corrcoef(one[0], other[0])[0, 1] / 2
    assert correlation(one, other) == pytest.approx(expected)
    np.testing.assert_allclose(rank_correlation(one, other), [1, 0])


def test_games_are_read_from_tables() -> None:
    game, _ = toy_game(repeats=2, noise=0.1)
    rows = [
        ("labels", coalition, repeat, query, game.losses[repeat, number, coalition])
        for coalition in range(len(game.present))
        for repeat in range(2)
        for number, query in enumerate(game.queries)
    ]
    names = ["catalogues", "coalition", "repeat", "query_id", "loss"]
    losses = pl.DataFrame(rows[::-1], schema=names, orient="row")
    members = pl.DataFrame(
        [
            ("labels", coalition, game.parties[party])
            for coalition, row in enumerate(game.present)
            for party in np.flatnonzero(row)
        ],
        schema=["catalogues", "coalition", "party"],
        orient="row",
    )
    catalogues = pl.DataFrame(
        [("labels", party, f"t-{party}-{n}", n + 1) for party in game.parties for n in range(2)],
        schema=["catalogues", "party", "track_id", "segments"],
        orient="row",
    )
    read = read_games(losses, members, catalogues)["labels"]
    assert (read.parties, read.queries) == (game.parties, game.queries)
    np.testing.assert_array_equal(read.present, game.present)
    # The base model is no witness of its own pieces; the other seed is.
    whole = game.present.all(axis=1)
    assert np.isnan(read.losses[0][:, whole]).all()
    np.testing.assert_array_equal(read.losses[1], game.losses[1])
    np.testing.assert_array_equal(read.losses[0][:, ~whole], game.losses[0][:, ~whole])
    np.testing.assert_array_equal(read.mean_losses[:, whole], game.losses[1][:, whole])
    once = read_games(losses.filter(repeat=0), members, catalogues)["labels"]
    np.testing.assert_array_equal(once.present, game.present[~whole])
    assert np.isnan(leave_one_out(once)).all()
    np.testing.assert_array_equal(read.segments, np.full(PARTIES, 3.0))
