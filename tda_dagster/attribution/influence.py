"""From gradient features to influence: one algebra for all methods that differ in curvature.

With G [segments, dimension] the features of the training segments and g [queries, dimension] those
of the queries, influence is g·C⁻¹·Gᵀ for a curvature C. All is float64 on CPU.
"""

import torch
from torch import Tensor


def inner_products(queries: Tensor, segments: Tensor) -> Tensor:
    """⟨g_q, G_i⟩, [queries, segments]: influence with a curvature of one."""
    return queries.double() @ segments.double().T


def kernel_influence(queries: Tensor, segments: Tensor, damping: float) -> Tensor:
    """g·(GᵀG/N + λI)⁻¹·Gᵀ/N, [queries, segments]: influence under the whole empirical Fisher
    information, not its diagonal alone.

    By Woodbury it is (GGᵀ + NλI)⁻¹ of the N×N kernel applied to Gg, so that the curvature, which
    has the square of the dimension, is never built. λ is `damping` times the mean eigenvalue of
    GᵀG/N over its N directions, trace(GGᵀ)/N². With random projections this is TRAK
    (arXiv:2303.14186, eq. 16, with the loss as the model's output).
    """
    damped, _ = _damped_kernel(segments, damping)
    influence: Tensor = torch.linalg.solve(damped, inner_products(segments, queries)).T
    return influence


def kernel_direction(query: Tensor, segments: Tensor, damping: float) -> Tensor:
    """(GᵀG/N + λI)⁻¹·g for one query's g [dimension], with λ as in `kernel_influence`: float64
    [dimension], by Woodbury (g − Gᵀ(GGᵀ + NλI)⁻¹Gg)/λ."""
    query, segments = query.double(), segments.double()
    damped, floor = _damped_kernel(segments, damping)
    known: Tensor = segments.T @ torch.linalg.solve(damped, segments @ query)
    return (query - known) * (len(segments) / floor)


def _damped_kernel(segments: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """GGᵀ + NλI [segments, segments], and Nλ."""
    kernel = inner_products(segments, segments)
    floor = damping * kernel.diagonal().mean()
    return kernel + floor * torch.eye(len(kernel), dtype=kernel.dtype), floor
