"""Choosing targets: spread, nearest to the centres, the same every time."""

import numpy as np
import pytest
import torch

from tda_dagster.embedding import Embedding
from tda_dagster.errors import TdaError
from tda_dagster.evaluation.targets import choose_targets


@pytest.fixture
def groups() -> Embedding:
    """Four clouds of nine pieces, each around a piece at its centre; one dimension is a thousand
    times wider, and one says nothing."""
    generator = np.random.default_rng(0)
    points, ids = [], []
    for cloud, centre in enumerate([(0, 0), (0, 8), (8, 0), (8, 8)]):
        around = generator.standard_normal((4, 2)) * 0.3
        for index, offset in enumerate([(0, 0), *around, *-around]):
            points.append([centre[0] + offset[0], 1000 * (centre[1] + offset[1]), 7.0])
            ids.append(f"{cloud}-{index}")
    return Embedding(tuple(ids), torch.tensor(points))


def test_the_centre_of_every_cloud_is_chosen(groups: Embedding) -> None:
    assert choose_targets(groups, 4, seed=0) == ("0-0", "1-0", "2-0", "3-0")


@pytest.mark.parametrize("count", [1, 3, 10, 36])
def test_as_many_as_asked_for_all_different(groups: Embedding, count: int) -> None:
    chosen = choose_targets(groups, count, seed=1)
    assert len(set(chosen)) == len(chosen) == count
    assert list(chosen) == sorted(chosen, key=groups.ids.index)
    assert chosen == choose_targets(groups, count, seed=1)


def test_the_order_of_the_pieces_does_not_matter(groups: Embedding) -> None:
    order = np.random.default_rng(2).permutation(36)
    shuffled = Embedding(tuple(groups.ids[i] for i in order), groups.vectors[order])
    assert set(choose_targets(shuffled, 7, seed=3)) == set(choose_targets(groups, 7, seed=3))


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_pieces_that_are_all_alike_are_told_apart() -> None:
    alike = Embedding(tuple("abcdef"), torch.ones((6, 2, 3)))
    assert len(set(choose_targets(alike, 4, seed=0))) == 4


@pytest.mark.parametrize("count", [0, 37])
def test_more_targets_than_pieces_are_refused(groups: Embedding, count: int) -> None:
    with pytest.raises(TdaError, match="at most 36"):
        choose_targets(groups, count, seed=0)
