"""Fréchet distances against their closed forms."""

import numpy as np
import pytest

from tda_dagster.errors import TdaError
from tda_dagster.evaluation.frechet import frechet_distance, frechet_interval


def whitened(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Vectors whose mean is exactly 0 and whose covariance is exactly the identity."""
    points = np.random.default_rng(seed).standard_normal((count, dimensions))
    points -= points.mean(axis=0)
    orthonormal, _ = np.linalg.qr(points)
    made: np.ndarray = orthonormal * np.sqrt(count - 1)
    return made


@pytest.fixture
def sets() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    a = generator.standard_normal((30, 5))
    return a, 1.5 * a + generator.standard_normal((30, 5)) + 0.3


def test_diagonal_gaussians_have_a_closed_form() -> None:
    wide, narrow = np.array([1.0, 2.0, 3.0]), np.array([0.5, 2.0, 7.0])
    shift = np.array([0.0, -1.0, 4.0])
    a, b = wide * whitened(50, 3, 0), narrow * whitened(40, 3, 1) + shift
    expected = (shift**2).sum() + ((wide - narrow) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_it_is_the_formula_with_the_matrix_root(sets: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = sets
    first, second = np.cov(a.T), np.cov(b.T)
    # The eigenvalues of a product of positive matrices are real, and positive.
    roots = np.sqrt(np.linalg.eigvals(first @ second).real)
    shift = a.mean(axis=0) - b.mean(axis=0)
    expected = shift @ shift + np.trace(first) + np.trace(second) - 2 * roots.sum()
    assert frechet_distance(a, b) == pytest.approx(float(expected))
    assert frechet_distance(b, a) == pytest.approx(float(expected))


@pytest.mark.parametrize("count", [2, 10, 100])
def test_equal_sets_are_at_no_distance(count: int) -> None:
    vectors = np.random.default_rng(2).standard_normal((count, 40)).astype(np.float32)
    assert frechet_distance(vectors, vectors) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(vectors, vectors[::-1]) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(
        frechet_interval(vectors, vectors, resamples=20, seed=0), 0, atol=1e-9
    )


def test_a_shift_counts_with_fewer_pieces_than_dimensions() -> None:
    vectors = np.random.default_rng(3).standard_normal((6, 40))
    assert frechet_distance(vectors, vectors + 0.5) == pytest.approx(40 * 0.25)


def test_order_and_rotation_change_nothing(sets: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = sets
    rotation, _ = np.linalg.qr(np.random.default_rng(4).standard_normal((5, 5)))
    shuffled = np.random.default_rng(5).permutation(30)
    distance = frechet_distance(a, b)
    assert frechet_distance(a[shuffled], b[::-1]) == pytest.approx(distance)
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(distance)


class TestInterval:
    def test_it_holds_the_distance_and_repeats_itself(
        self, sets: tuple[np.ndarray, np.ndarray]
    ) -> None:
        low, high = frechet_interval(*sets, resamples=200, seed=0)
        assert 0 <= low < frechet_distance(*sets) < high
        assert (low, high) == frechet_interval(*sets, resamples=200, seed=0)
        assert (low, high) != frechet_interval(*sets, resamples=200, seed=1)

    def test_a_smaller_level_is_a_narrower_interval(
        self, sets: tuple[np.ndarray, np.ndarray]
    ) -> None:
        wide = frechet_interval(*sets, resamples=200, seed=0)
        narrow = frechet_interval(*sets, resamples=200, seed=0, level=0.5)
        assert wide[0] < narrow[0] < narrow[1] < wide[1]

    def test_pairs_are_drawn_together(self) -> None:
        """What moves both sets alike is no uncertainty: a constant shift is certain."""
        a = np.random.default_rng(6).standard_normal((12, 4))
        np.testing.assert_allclose(frechet_interval(a, a + 1, resamples=50, seed=0), 4)

    def test_it_is_as_wide_as_new_samples_differ(self) -> None:
        def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
            generator = np.random.default_rng(seed)
            a = generator.standard_normal((60, 3))
            return a, 0.8 * a + 0.6 * generator.standard_normal((60, 3)) + 0.7

        distances = [frechet_distance(*sample(seed)) for seed in range(150)]
        intervals = np.array(
            [frechet_interval(*sample(seed), resamples=100, seed=seed) for seed in range(20)]
        )
        width = (intervals[:, 1] - intervals[:, 0]).mean()
        assert width == pytest.approx(2 * 1.96 * np.std(distances), rel=0.3)

    def test_sets_that_cannot_be_paired_are_refused(self) -> None:
        with pytest.raises(TdaError, match="3 and 4"):
            frechet_interval(np.zeros((3, 2)), np.zeros((4, 2)), resamples=5, seed=0)
        with pytest.raises(TdaError, match="two pieces"):
            frechet_distance(np.zeros((1, 2)), np.zeros((4, 2)))
