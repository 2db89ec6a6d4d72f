"""Payout error: how far shares are from what catalogues are really worth to a query.

The truth comes from trainings on coalitions of catalogues (`coalitions`). A query's game is
v(S) = −(loss of the query under a model trained on the catalogues in S alone). The *value* of a
party is its coefficient in the linear game that is nearest to v, by least squares, over coalitions
that hold at least half of the training segments. Over all coalitions with equal weights these
coefficients are the Banzhaf values (Hammer and Holzman, 1992). Small coalitions are left out, for
models trained on a single catalogue overfit: their losses say nothing about the model that made the
query. Banzhaf values are the semivalues that suffer least from noise in v (arXiv:2205.15466). A
party's true share is its value, at least 0, divided by the sum over parties.

Arrays are float64. Parties come last: [queries, parties].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]

_WEIGHTS = np.linspace(0.0, 1.0, 101)
"""Tried for the support of a method."""
_EXPONENTS = np.linspace(0.0, 1.5, 31)
"""Tried for the baseline that pays by a power of the catalogue's size."""


@dataclass(frozen=True)
class Game:
    """The trainings on the coalitions of one assignment of tracks to parties.

    `present`: bool [coalitions, parties]; `losses`: [repeats, queries, coalitions]; `segments`:
    training segments of each party, [parties]. A loss is NaN where the training is the base model's
    own (all parties, the first seed): it generated the queries, and knows its own pieces far better
    than any other model that was trained on the same music.
    """

    parties: tuple[str, ...]
    queries: tuple[str, ...]
    present: NDArray[np.bool_]
    losses: Array
    segments: Array

    @property
    def mean_losses(self) -> Array:
        """The mean over the repeats that there are, [queries, coalitions]."""
        mean: Array = np.nanmean(self.losses, axis=0)
        return mean


@dataclass(frozen=True)
class Values:
    """The parties' values in loss units, and their standard errors, [queries, parties]."""

    value: Array
    error: Array


def read_games(
    losses: pl.DataFrame, coalitions: pl.DataFrame, catalogues: pl.DataFrame
) -> dict[str, Game]:
    """The game of each assignment, from the tables of `counterfactual/coalitions`."""
    games = {}
    for name in catalogues["catalogues"].unique(maintain_order=True):
        sizes = (
            catalogues.filter(catalogues=name)
            .group_by("party")
            .agg(pl.col("segments").sum())
            .sort("party")
        )
        parties = tuple(sizes["party"])
        members = coalitions.filter(catalogues=name)
        numbers = members["coalition"].unique().sort().to_list()
        place = {party: column for column, party in enumerate(parties)}
        present = np.zeros((len(numbers), len(parties)), dtype=bool)
        for coalition, party in members.select("coalition", "party").iter_rows():
            present[coalition, place[party]] = True
        own = losses.filter(catalogues=name).sort("repeat", "query_id", "coalition")
        queries = tuple(own["query_id"].unique().sort())
        shape = (own["repeat"].n_unique(), len(queries), len(numbers))
        found = own["loss"].to_numpy().reshape(shape).copy()
        found[0][:, present.all(axis=1)] = np.nan
        known = np.isfinite(found).any(axis=(0, 1))
        games[name] = Game(
            parties,
            queries,
            present[known],
            found[:, :, known],
            sizes["segments"].to_numpy().astype(np.float64),
        )
    return games


def linear_values(present: NDArray[np.bool_] | Array, losses: Array) -> Values:
    """Values of the parties by least squares, with an intercept, and their standard errors.

    `present` [coalitions, parties]: whether a party is in the coalition, or which part of its
    segments a subset of the tracks keeps; `losses` [queries, coalitions]. The errors are those of
    the estimator HC3, which holds for coalitions whose losses scatter unequally (MacKinnon and
    White, 1985). Raises ValueError where the coalitions cannot tell the parties apart.
    """
    design = np.column_stack([np.ones(len(present)), present.astype(np.float64)])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(
            f"{len(present)} coalitions cannot tell {present.shape[1]} parties apart: more of them "
            "are needed"
        )
    inverse = np.linalg.pinv(design)
    worth = -losses.T
    coefficients = inverse @ worth
    leverage = np.einsum("cp,pc->c", design, inverse)
    spare = np.maximum(1 - leverage, 1e-9)
    residual = (worth - design @ coefficients) / spare[:, None]
    error = np.sqrt(np.square(inverse) @ np.square(residual))
    return Values(coefficients[1:].T, error[1:].T)


def agreement(one: Values, other: Values) -> float:
    """The part of all values whose two estimates, from different trainings, differ by no more than
    1.96 standard errors of the difference: about 0.95 where both estimate the same."""
    apart = np.abs(one.value - other.value)
    return float((apart <= 1.96 * np.hypot(one.error, other.error)).mean())


def leave_one_out(game: Game) -> Array:
    """v(all) − v(all but one) by party, [queries, parties]; NaN where there is no such training, or
    none on all parties but the base model's own."""
    losses = game.mean_losses
    parties = len(game.parties)
    held = game.present.sum(axis=1)
    effects = np.full((len(game.queries), parties), np.nan)
    whole = np.flatnonzero(held == parties)
    if not len(whole):
        return effects
    for row in np.flatnonzero(held == parties - 1):
        (absent,) = np.flatnonzero(~game.present[row])
        effects[:, absent] = losses[:, row] - losses[:, whole].mean(axis=1)
    return effects


def true_shares(values: Array) -> Array:
    """Values, at least 0, divided by their sum; NaN for a query to which nobody has any."""
    clipped = np.maximum(values, 0.0)
    total = clipped.sum(axis=-1, keepdims=True)
    shares: Array = np.divide(clipped, total, out=np.full_like(clipped, np.nan), where=total > 0)
    return shares


def payout_error(shares: Array, truth: Array) -> Array:
    """Total variation distance between shares and true shares, [queries]: the part of the money
    that goes to the wrong parties. Both sum to 1 for each query."""
    distance: Array = np.abs(shares - truth).sum(axis=-1) / 2
    return distance


def pro_rata(segments: Array, exponent: float = 1.0) -> Array:
    """Shares in proportion to a power of the catalogues' sizes, [parties]; by a power of 0,
    everybody is paid equally."""
    weights = segments**exponent
    shares: Array = weights / weights.sum()
    return shares


def fitted_exponent(segments: Array, truth: Array) -> float:
    """The exponent under which `pro_rata` has the least mean payout error."""
    errors = [np.nanmean(payout_error(pro_rata(segments, e), truth)) for e in _EXPONENTS]
    return float(_EXPONENTS[int(np.argmin(errors))])


@dataclass(frozen=True)
class Weighed:
    """Payouts by a method's evidence alone and without it, and true shares, [queries, parties]."""

    evidence: Array
    pro_rata: Array
    truth: Array

    def payout(self, support: float) -> Array:
        """Payouts where the evidence has the weight `support`."""
        mixed: Array = support * self.evidence + (1 - support) * self.pro_rata
        return mixed


def fitted_support(games: Sequence[Weighed], *, resamples: int = 1000, seed: int = 0) -> float:
    """The weight of the evidence under which the payout error, the mean over queries and then over
    `games`, is the least; 0 unless that error is below the one without evidence by more than
    chance: the 97.5 % quantile of the difference over bootstrap resamples of the queries.

    The games are of the same queries.
    """
    errors = [
        np.mean([np.nanmean(payout_error(game.payout(weight), game.truth)) for game in games])
        for weight in _WEIGHTS
    ]
    best = float(_WEIGHTS[int(np.argmin(errors))])
    gains = np.stack(
        [
            payout_error(game.payout(best), game.truth) - payout_error(game.pro_rata, game.truth)
            for game in games
        ]
    )
    generator = np.random.default_rng(seed)
    queries = gains.shape[1]
    drawn = [
        np.nanmean(gains[:, generator.integers(0, queries, queries)]) for _ in range(resamples)
    ]
    return best if np.quantile(drawn, 0.975) < 0 else 0.0


def fitted_spread(games: Sequence[Weighed], support: float, floor: float) -> float:
    """The spread s under which the intervals payout ± s · √(payout · (1 − payout) + floor) hold 90
    of 100 true shares: a split-conformal quantile of the scaled errors (Lei et al., 2018,
    "Distribution-free predictive inference for regression")."""
    scaled = []
    for game in games:
        paid = game.payout(support)
        found = np.abs(game.truth - paid) / np.sqrt(paid * (1 - paid) + floor)
        scaled.append(found[np.isfinite(found)])
    values = np.sort(np.concatenate(scaled))
    place = min(len(values), math.ceil(0.9 * (len(values) + 1)))
    return float(values[place - 1])


def coverage(low: Array, high: Array, truth: Array) -> float:
    """The part of the true shares that lie within their intervals."""
    known = np.isfinite(truth)
    return float(((low <= truth) & (truth <= high))[known].mean())


def correlation(one: Array, other: Array) -> float:
    """The mean over queries of the correlation over parties; queries without variation count 0."""
    return float(np.mean(_correlations(one, other)))


def rank_correlation(one: Array, other: Array) -> Array:
    """Spearman's correlation over parties, [queries]; 0 where a query has no order."""
    return _correlations(rankdata(one, axis=-1), rankdata(other, axis=-1))


def _correlations(one: Array, other: Array) -> Array:
    a, b = (array - array.mean(axis=-1, keepdims=True) for array in (one, other))
    norm = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    found: Array = np.divide((a * b).sum(axis=-1), norm, out=np.zeros(norm.shape), where=norm != 0)
    return found


def _values_of_one_seed(game: Game, losses: Array) -> Array:
    known = np.isfinite(losses).all(axis=0)
    return _values_or_nan(game.present[known], losses[:, known])


def _values_or_nan(present: NDArray[np.bool_], losses: Array) -> Array:
    """Values, or NaN where the coalitions cannot tell the parties apart."""
    try:
        return linear_values(present, losses).value
    except ValueError:
        return np.full((len(losses), present.shape[1]), np.nan)


@dataclass(frozen=True)
class Reliability:
    """How reliable the truth is: the correlation within a query between the values from two halves
    of the coalitions and, where every coalition was trained on twice, from two seeds; and the
    payout error that exact shares would be measured to have. A correlation is NaN where there are
    too few coalitions, or one seed."""

    halves: float
    seeds: float
    exact_error: float


def reliability(game: Game, *, resamples: int = 200, seed: int = 0) -> Reliability:
    """The reliability of a game's values.

    `exact_error` is the mean distance between the true shares and those from a bootstrap resample
    of the coalitions: the estimate scatters about the truth as a resample does about the estimate.
    """
    losses = game.mean_losses
    even = np.arange(len(game.present)) % 2 == 0
    halves = [_values_or_nan(game.present[half], losses[:, half]) for half in (even, ~even)]
    seeds = [_values_of_one_seed(game, one) for one in game.losses[:2]]
    truth = true_shares(linear_values(game.present, losses).value)
    generator = np.random.default_rng(seed)
    errors: list[float] = []
    for _ in range(resamples):
        drawn = generator.integers(0, len(game.present), len(game.present))
        again = _values_or_nan(game.present[drawn], losses[:, drawn])
        if np.isfinite(again).all():  # else the resample cannot tell the parties apart
            errors.append(float(np.nanmean(payout_error(true_shares(again), truth))))
    return Reliability(
        correlation(*halves),
        correlation(*seeds) if len(seeds) == 2 else float("nan"),
        float(np.mean(errors)) if errors else float("nan"),
    )
