"""How vectors are compared. What is compared, and why, is said where a method uses it."""

import torch
from torch import Tensor


def cosine(queries: Tensor, segments: Tensor) -> Tensor:
    """Cosine of the angles between vectors [q, d] and [n, d]: float64 [q, n] in [-1, 1]. A vector
    of zeros is similar to nothing: 0."""
    normalise = torch.nn.functional.normalize
    return normalise(queries.double(), dim=1) @ normalise(segments.double(), dim=1).T


def standardised(vectors: Tensor, reference: Tensor) -> Tensor:
    """Vectors [n, d] with every dimension's mean over `reference` [m, d] taken away and divided by
    its standard deviation there: float64. A dimension that is constant there is left out: 0."""
    deviation, mean = torch.std_mean(reference.double(), dim=0, correction=0)
    # Rounding leaves a constant dimension with a deviation that is tiny, but not zero.
    constant = deviation <= 1e-9 * mean.abs()
    scale = torch.where(constant, 0.0, 1 / torch.where(constant, 1.0, deviation))
    return (vectors.double() - mean) * scale
