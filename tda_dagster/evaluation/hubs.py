"""Whether scores depend on the query: hubs and the common part of a score matrix.

What belongs here: diagnostics of one method's scores of one cohort, float64 [queries, segments],
that need no retraining (after arXiv:2605.16181: singular values and column statistics). A method
whose scores ignore the query names the same segments for every query. No figure depends on the
scale, the offset or the sign convention of a query's scores beyond "larger is more influential".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, skew

Array = NDArray[np.float64]

TOP = 20
"""Length of a query's list of most influential segments, of which occurrences are counted."""


@dataclass(frozen=True)
class Independence:
    """How far the scores of a cohort depend on the query.

    Attributes:
        first_direction_share: share of the row-standardised matrix' energy in its first singular
            direction, in [1 / queries, 1]; 1 if all rows are multiples of one another.
        rank_correlation: mean Spearman correlation between the scores of two different queries.
        occurrence_skewness: skewness over segments of the number of queries that have a segment
            among their `TOP`; large where few segments stand in most lists.
        largest_occurrence: share of the queries that have the most frequent segment among their
            `TOP`.
    """

    first_direction_share: float
    rank_correlation: float
    occurrence_skewness: float
    largest_occurrence: float


def independence(scores: Array) -> Independence | None:
    """The diagnostics of scores [queries, segments]; None for fewer than two queries, which cannot
    be compared, or two segments, which have no order."""
    if min(scores.shape) < 2:
        return None
    counts = occurrences(scores, TOP)
    return Independence(
        first_direction_share(scores),
        mean_rank_correlation(scores),
        occurrence_skewness(counts),
        float(counts.max()) / len(scores),
    )


def first_direction_share(scores: Array) -> float:
    """σ₁² / Σσ² of the scores [queries, segments] with each row standardised (mean 0, norm 1).

    With a mean correlation r between rows about r + (1 − r) / queries, and of independent rows
    about (1 / √queries + 1 / √segments)² (Marchenko and Pastur, 1967). A row of equal scores is a
    row of zeros; 0 when all rows are.
    """
    rows = _standardised(scores)
    # The queries' Gram matrix: as small as it can be, and no vectors are needed.
    energies = np.linalg.eigvalsh(rows @ rows.T)
    total = float(energies.sum())
    return float(energies[-1]) / total if total > 0 else 0.0


def mean_rank_correlation(scores: Array) -> float:
    """Mean over the pairs of two different queries of the Spearman correlation of their scores
    [queries, segments], at least two queries. Equal scores share their mean rank; a query whose
    scores are all equal correlates with none, as 0.

    The sum over pairs of products of unit rows uᵢ is (‖Σuᵢ‖² − Σ‖uᵢ‖²) / 2, so no matrix of pairs
    is made.
    """
    rows = _standardised(rankdata(scores, axis=1))
    together = float(np.square(rows.sum(axis=0)).sum()) - float(np.square(rows).sum())
    return together / (len(rows) * (len(rows) - 1))


def occurrences(scores: Array, k: int) -> NDArray[np.int64]:
    """In how many queries' `k` best segments each segment is, [segments] (the k-occurrences N_k of
    Radovanović, Nanopoulos and Ivanović, 2010).

    Of equal scores the first segments are taken, so give segments in the order of their ids. With
    no more than `k` segments each is in every list.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.bincount(best.ravel(), minlength=scores.shape[1])


def occurrence_skewness(counts: NDArray[np.int64]) -> float:
    """E(N − μ)³ / σ³ of the `occurrences` over segments: the hubness S_Nk (Radovanović, Nanopoulos
    and Ivanović, 2010, equation 1). 0 when all segments occur equally often."""
    return float(skew(counts)) if counts.min() < counts.max() else 0.0


def _standardised(rows: Array) -> Array:
    """Rows with mean 0 and norm 1; rows of equal values become zeros."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    # What rounding of the mean leaves of equal values is not spread.
    centred[rows.min(axis=1) == rows.max(axis=1)] = 0.0
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    standard: Array = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    return standard
