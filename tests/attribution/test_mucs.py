"""MUCS: stops by its own criterion, says why, and leaves the model alone."""

import pytest
import torch

from tda_dagster.attribution.methods import Material
from tda_dagster.attribution.methods.mucs import Mucs
from tda_dagster.attribution.sweep import sweep
from tda_dagster.attribution.unlearning import UnlearningError
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.settings import Settings

pytestmark = pytest.mark.usefixtures("untouched")


def mucs(**own: object) -> Mucs:
    return Mucs.of(Settings(method_settings={"mucs": {"batch_size": 2, "draws": 3, **own}}))


@pytest.fixture(scope="module")
def query(segments: LatentSegments) -> LatentSegments:
    """A segment with padding."""
    return segments.take([1])


def loss_of(model: MusicModel, query: LatentSegments, spec: Mucs, delta: object) -> float:
    """The query's loss under the plan of the criterion."""
    losses = sweep(model, query, NoisePlan(draws=spec.draws, seed=spec.seed), delta)  # type: ignore[arg-type]
    return float(losses["loss_valid"].to_numpy().mean())


def test_it_stops_at_its_bound_and_says_so(
    study: Material, model: MusicModel, query: LatentSegments, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The model of this test is untrained itself, so the null loss is put above what it has.
    before = loss_of(model, query, mucs(), {})
    null = 1.5 * before
    monkeypatch.setattr(Mucs, "_null_loss", lambda *_: null)
    spec = mucs(bound=0.7, learning_rate=3e-3, ascent_weight=2.0)
    result = spec.unlearn(study, query)
    assert result.stopped.startswith(f"bound reached after {len(result.query_losses) - 1} steps")
    *below, last = result.query_losses
    assert below
    assert all(loss < spec.bound * null for loss in below)
    assert last >= spec.bound * null
    assert loss_of(model, query, spec, result.delta) == pytest.approx(last, rel=1e-5)
    assert result.query_losses[0] == pytest.approx(before, rel=1e-5)


def test_the_null_loss_is_that_of_weights_that_were_never_trained(
    model: MusicModel, query: LatentSegments
) -> None:
    spec = mucs()
    fresh = model.freshly_initialised(spec.seed)
    weights = model.weights(list(fresh))
    expected = loss_of(model, query, spec, {n: fresh[n] - weights[n] for n in fresh})
    plan = NoisePlan(draws=spec.draws, seed=spec.seed)
    assert spec._null_loss(model, query, plan) == pytest.approx(expected, rel=1e-6)


def test_it_stops_at_its_last_step_and_says_so(study: Material, query: LatentSegments) -> None:
    result = mucs(max_steps=2, bound=100.0).unlearn(study, query)
    assert len(result.query_losses) == 3
    assert result.stopped.startswith("max_steps (2) done")


def test_there_is_no_ascent_beyond_the_null_loss(
    study: Material, model: MusicModel, query: LatentSegments, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a null loss of almost nothing, only the retain loss is left: λ must not matter.
    monkeypatch.setattr(Mucs, "_null_loss", lambda *_: 1e-6)
    results = [
        mucs(max_steps=2, bound=1e9, ascent_weight=weight).unlearn(study, query)
        for weight in (0.2, 50.0)
    ]
    for name, delta in results[0].delta.items():
        assert torch.equal(delta, results[1].delta[name])


def test_a_query_that_is_at_the_bound_already_is_named(
    study: Material, query: LatentSegments
) -> None:
    with pytest.raises(UnlearningError, match=rf"{query.segment_ids[0]}.*mucs\.bound"):
        mucs(bound=1e-3).unlearn(study, query)


def test_a_loss_that_is_not_finite_any_more_is_named(
    study: Material, query: LatentSegments
) -> None:
    with pytest.raises(UnlearningError, match=r"after 1 steps.*mucs\.learning_rate"):
        mucs(bound=1e30, learning_rate=1e30).unlearn(study, query)


def test_one_step_is_adam_on_the_stated_loss(study: Material, query: LatentSegments) -> None:
    # Adam's first step moves every weight by the learning rate against the gradient's sign.
    rate = 1e-3
    result = mucs(max_steps=1, bound=100.0, learning_rate=rate).unlearn(study, query)
    moved = torch.cat([delta.flatten().abs() for delta in result.delta.values()])
    assert float(moved.max()) == pytest.approx(rate, rel=1e-2)
    assert float(moved.median()) == pytest.approx(rate, rel=1e-2)


def test_two_runs_give_the_same_bytes(study: Material, query: LatentSegments) -> None:
    first, second = (mucs(max_steps=2, bound=100.0).unlearn(study, query) for _ in range(2))
    assert first.query_losses == second.query_losses
    assert all(torch.equal(first.delta[name], second.delta[name]) for name in first.delta)


def test_only_the_layer_group_moves(
    study: Material, model: MusicModel, query: LatentSegments
) -> None:
    result = mucs(max_steps=1, bound=100.0, layer_group="cross_attention").unlearn(study, query)
    assert set(result.delta) == set(model.layer_group("cross_attention"))
