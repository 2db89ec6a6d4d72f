"""Draws are keyed by what a piece is: equal pieces meet equal noise, whatever they are called."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from tda_dagster.attribution.features import GradientSpec
from tda_dagster.attribution.fisher import estimate_fisher
from tda_dagster.attribution.methods import method_class
from tda_dagster.attribution.methods.random import Random
from tda_dagster.attribution.sweep import sweep
from tda_dagster.attribution.unlearning import unlearn
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.settings import Settings

MakeSegments = Callable[..., LatentSegments]
PLAN = NoisePlan(draws=3, seed=1)


@pytest.fixture(scope="module")
def twice(make_segments: MakeSegments) -> LatentSegments:
    """One piece under two names, keyed by its content."""
    piece = make_segments().take([0, 0])
    return dataclasses.replace(piece, segment_ids=("a-000", "a-001"), draw_keys=("same", "same"))


def test_losses_of_equal_pieces_are_equal(model: MusicModel, twice: LatentSegments) -> None:
    keyed, by_id = (sweep(model, pieces, PLAN) for pieces in (twice, twice.keyed_by_id()))
    one, other = (keyed.filter(segment_id=name)["loss"].to_list() for name in twice.segment_ids)
    assert one == pytest.approx(other, rel=1e-6)
    # Under draws of their own the same piece has other losses.
    one, other = (by_id.filter(segment_id=name)["loss"].to_list() for name in twice.segment_ids)
    assert one != pytest.approx(other, rel=1e-3)


def test_unlearning_and_features_do_not_depend_on_the_name(
    model: MusicModel, twice: LatentSegments, segments: LatentSegments
) -> None:
    group = "cross_attention_kv"
    fisher = estimate_fisher(
        model, segments, PLAN, layer_group=group, mask_padding=True, batch_size=16
    )
    deltas = [
        unlearn(
            model,
            twice.take([row]),
            fisher,
            layer_group=group,
            learning_rate=1e-3,
            draws=4,
            damping=0.1,
            seed=2,
        ).delta
        for row in (0, 1)
    ]
    assert all(torch.equal(deltas[0][name], deltas[1][name]) for name in deltas[0])
    spec = GradientSpec(layer_group=group, draws=3, dimension=None)
    one, other = (spec.features(model, twice.take([row])) for row in (0, 1))
    assert torch.equal(one, other)


def test_random_scores_are_of_the_content(twice: LatentSegments, segments: LatentSegments) -> None:
    method = method_class("random").of(Settings())
    assert isinstance(method, Random)
    scores = method.score(None, twice, segments)  # type: ignore[arg-type]  # it reads nothing
    assert torch.equal(scores[0], scores[1])
    other = dataclasses.replace(twice, draw_keys=("same", "other"))
    assert not torch.equal(*method.score(None, other, segments))  # type: ignore[arg-type]
