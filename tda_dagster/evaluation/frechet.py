"""Fréchet distance between two sets of embeddings: do they sound alike as sets?"""

import numpy as np

from tda_dagster.errors import TdaError


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance between Gaussians fitted to vectors [n, d] and [m, d].

    ‖μₐ − μ_b‖² + Tr(Σₐ + Σ_b − 2(ΣₐΣ_b)^½) (Dowson and Landau, 1982; of embeddings of images FID,
    arXiv:1706.08500, of audio FAD, arXiv:1812.08466), with unbiased covariances. In units of the
    embedding, squared: standardise it first, or its widest dimensions decide alone.

    With Σₐ = AᵀA and Σ_b = BᵀB the trace of the root is the sum of the singular values of ABᵀ: no
    matrix is inverted or rooted, so fewer pieces than dimensions do no harm to the arithmetic. They
    do to the estimate: **the distance of small samples is too large**, by a part that shrinks with
    1/n (arXiv:1911.07023) and is there for two samples of one distribution, too. Compare it with
    that of sets of the same size only. Raises TdaError for fewer than two vectors in a set.
    """
    mean_a, root_a = _gaussian(a)
    mean_b, root_b = _gaussian(b)
    cross = float(np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum())
    spread = float((root_a**2).sum() + (root_b**2).sum())
    # Rounding may leave equal sets a little below zero.
    return max(0.0, float(((mean_a - mean_b) ** 2).sum()) + spread - 2 * cross)


def frechet_interval(
    a: np.ndarray, b: np.ndarray, *, resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of `frechet_distance` over pieces; `a` and `b` are [n, d], paired by row.

    Row i of both comes from the same prompt (and, if only the model differs, the same seed), so
    *pairs* are drawn with replacement: which prompts were asked moves both sets together, and is
    no uncertainty about their distance. Equal sets are at distance 0 in every resample.

    A resample repeats pieces, which raises the distance as fewer pieces do. The interval is
    therefore the spread of the resamples around their median, laid around the distance itself, and
    not below 0. What remains in it is the bias of the distance itself: see there. Raises TdaError
    for sets of different sizes.
    """
    if len(a) != len(b):
        raise TdaError(
            f"{len(a)} and {len(b)} pieces cannot be paired; compare pieces of the same prompts"
        )
    generator = np.random.default_rng(seed)
    drawn = []
    draws = (generator.integers(len(a), size=len(a)) for _ in range(resamples))
    drawn = [frechet_distance(a[rows], b[rows]) for rows in draws]
    tail = (1 - level) / 2
    low, middle, high = np.quantile(drawn, [tail, 0.5, 1 - tail])
    distance = frechet_distance(a, b)
    return max(0.0, distance - (middle - low)), distance + (high - middle)


def _gaussian(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and a root R [min(n, d), d] of the covariance, Σ = RᵀR, in float64."""
    if len(vectors) < 2:
        raise TdaError("a Fréchet distance needs at least two pieces on either side")
    points = vectors.reshape(len(vectors), -1).astype(np.float64)
    mean = points.mean(axis=0)
    return mean, np.asarray(np.linalg.qr((points - mean) / np.sqrt(len(points) - 1), mode="r"))
