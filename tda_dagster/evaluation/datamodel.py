"""How well scores foretell what a model becomes without some of its tracks.

What belongs here: the linear datamodelling score, its uncertainty, and how good any method could
be. Arrays are float64 with [queries, subsets] last; which tracks a subset has is `counterfactual`'s
business, what a model lost there is the retraining's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata

from tda_dagster.numerics import group_means

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """An estimate, and what it is when queries and subsets are drawn again, [resamples]."""

    value: float
    resamples: Array

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds of its 95 % bootstrap interval."""
        low, high = np.quantile(self.resamples, [0.025, 0.975])
        return float(low), float(high)


def by_subset(losses: pl.DataFrame, queries: Sequence[str]) -> Array:
    """Losses as [repeats, queries, subsets], each the mean over its draws.

    `losses` has one row per `repeat`, `subset`, `query_id` and draw, and is complete.
    """
    ordered = losses.sort("repeat", "subset", "query_id", "draw")
    keys = ("repeat", "subset", "query_id")
    starts, values, _, _ = group_means(
        [ordered[key].to_numpy() for key in keys], ordered["loss"].to_numpy()
    )
    means = ordered.select(keys)[starts].with_columns(loss=pl.Series(values))
    return np.stack(
        [
            np.stack([part.filter(query_id=query)["loss"].to_numpy() for query in queries])
            for part in means.partition_by("repeat", maintain_order=True)
        ]
    )


def group_scores(scores: Array, kept: NDArray[np.bool_]) -> Array:
    """What the scores foretell of each subset: the sum over the segments that it keeps.

    `scores` [queries, segments], `kept` [subsets, segments]; returns [queries, subsets].
    """
    return scores @ kept.T.astype(np.float64)


def datamodelling_scores(foretold: Array, losses: Array) -> Array:
    """LDS of every query, [queries]: the Spearman correlation over subsets between what scores
    foretell and the loss of the query under a model trained on the subset (arXiv:2303.14186,
    definition 2.3).

    A track with a larger score lowers the query's loss where it is trained on, so the sign is
    turned: 1 is a perfect order, 0 is chance. A query whose scores or losses are all equal is
    given 0, for nothing was foretold. `foretold` and `losses` are [queries, subsets].
    """
    return _spearman(foretold, -losses)


def noise_ceiling(losses: Array) -> float:
    """The LDS that the true expected losses would have: how good any method can be here.

    `losses` [repeats, queries, subsets] with at least two trainings of each subset. Their mean
    correlation r between repeats is the reliability of one; the mean of R has reliability
    R·r / (1 + (R − 1)·r) (Spearman, 1910; Brown, 1910), and what is exact correlates with it by the
    square root of that.
    """
    repeats = len(losses)
    if repeats < 2:
        raise ValueError("a noise ceiling needs two trainings of each subset")
    pairs = [
        _spearman(losses[one], losses[other]).mean()
        for one in range(repeats)
        for other in range(one)
    ]
    reliability = max(0.0, float(np.mean(pairs)))
    return float(np.sqrt(repeats * reliability / (1 + (repeats - 1) * reliability)))


def bootstrap(
    statistic: Callable[[NDArray[np.int64], NDArray[np.int64]], float],
    queries: int,
    subsets: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """A statistic of queries and subsets, and what it is when both are drawn with replacement.

    `statistic` is given indices of queries and of subsets. Equal seeds give equal draws, so that
    the difference of two methods has an interval of its own: the one of their differences.
    """
    generator = np.random.default_rng(seed)
    drawn = [
        statistic(generator.integers(0, queries, queries), generator.integers(0, subsets, subsets))
        for _ in range(resamples)
    ]
    return Estimate(statistic(np.arange(queries), np.arange(subsets)), np.asarray(drawn))


def mean_datamodelling_score(foretold: Array, losses: Array, **options: int) -> Estimate:
    """The mean LDS of the queries, estimated over queries and subsets."""

    def statistic(queries: NDArray[np.int64], subsets: NDArray[np.int64]) -> float:
        chosen = np.ix_(queries, subsets)
        return float(datamodelling_scores(foretold[chosen], losses[chosen]).mean())

    return bootstrap(statistic, *losses.shape, **options)


def halves(queries: int, subsets: int) -> dict[str, tuple[slice, slice]]:
    """Where settings of methods may be chosen, and where that is confirmed: the first half of the
    queries under the first half of the subsets, and the rest under the rest. What is added to a
    bench when everything has been chosen can then only confirm. Of one query or subset there are
    no halves."""
    if min(queries, subsets) < 2:
        return {}
    q, s = (queries + 1) // 2, (subsets + 1) // 2
    return {"choosing": (slice(q), slice(s)), "confirming": (slice(q, None), slice(s, None))}


def _spearman(one: Array, other: Array) -> Array:
    """Rank correlation of the rows of two arrays; 0 where a row has no order."""
    ranks = [rankdata(array, axis=-1) for array in (one, other)]
    a, b = (r - r.mean(axis=-1, keepdims=True) for r in ranks)
    norm = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    correlation: Array = np.zeros(norm.shape)
    np.divide((a * b).sum(axis=-1), norm, out=correlation, where=norm > 0)
    return correlation
