"""Unlearning against the formula, computed with plain autograd on a second copy of the model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tda_dagster.attribution.fisher import FisherSum, estimate_fisher
from tda_dagster.attribution.sweep import sweep
from tda_dagster.attribution.unlearning import Unlearned, UnlearningError, unlearn
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import ModelError, MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.opening import open_model

Gradient = Callable[..., dict[str, Tensor]]

pytestmark = pytest.mark.usefixtures("untouched")

RATE, DRAWS, SEED, DAMPING = 0.02, 4, 21, 0.3


@pytest.fixture(scope="module")
def query(segments: LatentSegments) -> LatentSegments:
    """A segment with padding."""
    one = segments.take([1])
    assert int(one.valid_frames) < one.latents.shape[2]
    return one


@pytest.fixture(scope="module")
def fisher(model: MusicModel, segments: LatentSegments) -> FisherSum:
    return estimate_fisher(model, segments, NoisePlan(draws=2, seed=1))


@pytest.fixture
def constant_fisher(model: MusicModel) -> Callable[[float], FisherSum]:
    """A Fisher information that is the same everywhere, of 5 segments and 3 draws."""

    def make(value: float) -> FisherSum:
        weights = model.weights(model.layer_group("transformer"))
        sums = {n: torch.full(w.shape, 15 * value).double() for n, w in weights.items()}
        return FisherSum(sums, segments=5, draws=3)

    return make


def unlearn_by_hand(
    twin: MusicModel,
    query: LatentSegments,
    fisher: FisherSum,
    gradient_by_hand: Gradient,
    *,
    layer_group: str,
    steps: int,
    mask_padding: bool,
    damping: float = DAMPING,
) -> dict[str, Tensor]:
    """θ ← θ + (η/N)·(F + λF̄)⁻¹∇L(ẑ, θ), step by step, on weights that really move."""
    names = twin.layer_group(layer_group)
    diagonal = {name: fisher.sums[name] / (fisher.segments * fisher.draws) for name in names}
    mean = torch.cat([value.flatten() for value in diagonal.values()]).mean()
    delta = {name: torch.zeros_like(value) for name, value in diagonal.items()}
    for step in range(steps):
        plan = NoisePlan(draws=DRAWS, seed=SEED + step)
        with torch.no_grad(), twin.shifted({n: d.float() for n, d in delta.items()}):
            gradients = []
            with torch.enable_grad():
                for draw in range(DRAWS):
                    gradients.append(gradient_by_hand(twin, query, plan, draw, mask_padding))
        for name in names:
            gradient = torch.stack([g[name] for g in gradients]).mean(dim=0)
            step_size = RATE / fisher.segments / (diagonal[name] + damping * mean)
            delta[name] = delta[name] + step_size * gradient
    return delta


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        largest = float(value.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(
            found[name].double(), value.double(), rtol=1e-3, atol=1e-5 * largest
        )


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("layer_group", ["transformer", "cross_attention_kv"])
@pytest.mark.parametrize("mask_padding", [True, False])
def test_steps_follow_the_formula(
    model: MusicModel,
    twin: MusicModel,
    query: LatentSegments,
    fisher: FisherSum,
    gradient_by_hand: Gradient,
    steps: int,
    layer_group: str,
    mask_padding: bool,
) -> None:
    found = unlearn(
        model,
        query,
        fisher,
        layer_group=layer_group,
        learning_rate=RATE,
        steps=steps,
        draws=DRAWS,
        damping=DAMPING,
        mask_padding=mask_padding,
        seed=SEED,
    )
    expected = unlearn_by_hand(
        twin,
        query,
        fisher,
        gradient_by_hand,
        layer_group=layer_group,
        steps=steps,
        mask_padding=mask_padding,
    )
    assert_close(found.delta, expected)
    assert len(found.query_losses) == steps
    assert tuple(sorted(found.delta)) == model.layer_group(layer_group)
    for name, value in found.delta.items():
        assert value.dtype == torch.float32
        assert value.shape == model.weights([name])[name].shape
    weights = torch.cat([w.flatten() for w in model.weights(list(found.delta)).values()])
    moved = torch.cat([d.flatten() for d in found.delta.values()])
    assert found.relative_norm == pytest.approx(float(moved.norm() / weights.norm()), rel=1e-5)


def test_with_a_fisher_of_one_it_is_plain_gradient_ascent(
    model: MusicModel,
    twin: MusicModel,
    query: LatentSegments,
    constant_fisher: Callable[[float], FisherSum],
    gradient_by_hand: Gradient,
) -> None:
    found = unlearn(
        model,
        query,
        constant_fisher(1.0),
        learning_rate=RATE,
        draws=DRAWS,
        damping=0.0,
        seed=SEED,
    )
    plan = NoisePlan(draws=DRAWS, seed=SEED)
    gradients = [gradient_by_hand(twin, query, plan, draw, True) for draw in range(DRAWS)]
    expected = {
        name: RATE / 5 * torch.stack([g[name] for g in gradients]).mean(dim=0)
        for name in model.layer_group("transformer")
    }
    assert_close(found.delta, expected)


def test_damping_is_in_units_of_the_mean(
    model: MusicModel, query: LatentSegments, constant_fisher: Callable[[float], FisherSum]
) -> None:
    options = {"learning_rate": RATE, "draws": 1, "seed": SEED}
    plain = unlearn(model, query, constant_fisher(2.0), damping=0.0, **options)
    damped = unlearn(model, query, constant_fisher(2.0), damping=3.0, **options)
    assert_close({n: 4 * d for n, d in damped.delta.items()}, plain.delta)
    # Fisher information in another unit, with the learning rate to match, is the same step.
    options["learning_rate"] = 100 * RATE
    other = unlearn(model, query, constant_fisher(200.0), damping=3.0, **options)
    assert_close(other.delta, damped.delta)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_delta_does_not_depend_on_the_batch_size(
    model: MusicModel, query: LatentSegments, fisher: FisherSum, batch_size: int
) -> None:
    found, expected = (
        unlearn(
            model,
            query,
            fisher,
            learning_rate=RATE,
            steps=2,
            draws=DRAWS,
            damping=DAMPING,
            seed=SEED,
            batch_size=size,
        )
        for size in (batch_size, 4)
    )
    assert_close(found.delta, expected.delta)
    assert found.query_losses == pytest.approx(expected.query_losses, rel=1e-5)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_padding_has_no_say_when_it_is_masked(
    framewise_model: MusicModel,
    query: LatentSegments,
    constant_fisher: Callable[[float], FisherSum],
    repadded: Callable[[LatentSegments], LatentSegments],
    mask_padding: bool,
) -> None:
    # Not the self-attention: its own gradient sees all frames even where its output counts for 0.
    plain, changed = (
        unlearn(
            framewise_model,
            one,
            constant_fisher(1.0),
            layer_group="cross_attention",
            learning_rate=RATE,
            draws=2,
            damping=DAMPING,
            mask_padding=mask_padding,
            seed=SEED,
        )
        for one in (query, repadded(query))
    )
    if mask_padding:
        assert_close(changed.delta, plain.delta)
        assert changed.query_losses == pytest.approx(plain.query_losses, rel=1e-5)
    else:
        for name, value in plain.delta.items():
            assert not torch.allclose(changed.delta[name], value, rtol=0.1)


def test_the_losses_told_are_the_querys(
    model: MusicModel, query: LatentSegments, fisher: FisherSum
) -> None:
    found = unlearn(
        model, query, fisher, learning_rate=RATE, steps=2, draws=8, damping=DAMPING, seed=SEED
    )
    first = unlearn(model, query, fisher, learning_rate=RATE, draws=8, damping=DAMPING, seed=SEED)
    deltas: list[dict[str, Tensor]] = [{}, first.delta]
    for step, delta in enumerate(deltas):
        plan = NoisePlan(draws=8, seed=SEED + step)
        losses = sweep(model, query, plan, delta)["loss_valid"]
        assert found.query_losses[step] == pytest.approx(losses.mean(), rel=1e-5)


@pytest.mark.parametrize("layer_group", ["cross_attention_kv", "self_attention", "transformer"])
def test_the_query_is_unlearned(
    model: MusicModel, query: LatentSegments, fisher: FisherSum, layer_group: str
) -> None:
    found = unlearn(
        model,
        query,
        fisher,
        layer_group=layer_group,
        learning_rate=RATE,
        draws=16,
        damping=DAMPING,
        seed=SEED,
    )
    plan = NoisePlan(draws=16, seed=99)  # other draws than those it was unlearned under
    before = sweep(model, query, plan)["loss_valid"]
    after = sweep(model, query, plan, found.delta)["loss_valid"]
    assert after.mean() > before.mean()  # type: ignore[operator]


def test_a_checkpoint_comes_back_as_it_was(
    model: MusicModel,
    spectral_folder: Path,
    segments: LatentSegments,
    query: LatentSegments,
    fisher: FisherSum,
    tmp_path: Path,
) -> None:
    written = set()
    for number in range(3):
        found = unlearn(
            model, query, fisher, learning_rate=RATE, draws=DRAWS, damping=DAMPING, seed=SEED
        )
        found.save(tmp_path / str(number))
        written.add((tmp_path / str(number)).read_bytes())
    assert len(written) == 1
    again = Unlearned.load(tmp_path / "0")
    assert again.query_losses == found.query_losses
    assert again.relative_norm == found.relative_norm
    assert again.delta.keys() == found.delta.keys()
    for name, value in found.delta.items():
        assert torch.equal(again.delta[name], value)
    plan = NoisePlan(draws=3, seed=0)
    reopened = sweep(open_model(spectral_folder), segments, plan, again.delta)
    assert reopened.equals(sweep(model, segments, plan, found.delta))


def test_the_seed_decides_the_draws(
    model: MusicModel, query: LatentSegments, fisher: FisherSum
) -> None:
    one, other = (
        unlearn(model, query, fisher, learning_rate=RATE, draws=2, damping=DAMPING, seed=seed)
        for seed in (SEED, SEED + 1)
    )
    assert one.query_losses != other.query_losses


def test_no_damping_needs_a_fisher_without_zeros(
    model: MusicModel, query: LatentSegments, fisher: FisherSum
) -> None:
    name = model.layer_group("cross_attention")[0]
    sums = {n: value.clone() for n, value in fisher.sums.items()}
    sums[name][0, 0] = 0.0
    options = {"learning_rate": RATE, "draws": 1, "seed": SEED}
    for harmed, damping in ((sums, 0.0), ({n: 0 * v for n, v in sums.items()}, 0.5)):
        with pytest.raises(UnlearningError, match=r"set unlearning\.damping above 0"):
            unlearn(model, query, replace(fisher, sums=harmed), damping=damping, **options)
    damped = unlearn(model, query, replace(fisher, sums=sums), damping=1e-3, **options)
    assert bool(damped.delta[name].isfinite().all())


def test_a_model_or_query_that_is_not_finite_is_said_to_be(
    model: MusicModel, query: LatentSegments, fisher: FisherSum
) -> None:
    options = {"learning_rate": RATE, "draws": 1, "seed": SEED, "damping": 0.1}
    name = model.layer_group("feed_forward")[0]
    broken = {name: torch.full_like(model.weights([name])[name], torch.nan)}
    with (
        model.shifted(broken),
        pytest.raises(UnlearningError, match="loss is nan under the base model: its weights"),
    ):
        unlearn(model, query, fisher, **options)
    harmed = replace(query, latents=query.latents * torch.inf)
    with pytest.raises(UnlearningError, match="its weights, or the query, hold numbers"):
        unlearn(model, harmed, fisher, **options)


@pytest.mark.parametrize("rate", [1e-80, 1e80])
def test_a_step_of_nothing_or_without_end_is_an_error(
    model: MusicModel, query: LatentSegments, fisher: FisherSum, rate: float
) -> None:
    with pytest.raises(UnlearningError, match=rf"query {query.segment_ids[0]}: .*learning_rate"):
        unlearn(model, query, fisher, learning_rate=rate, draws=1, damping=DAMPING, seed=SEED)


def test_a_group_that_was_not_measured_is_an_error(
    model: MusicModel, query: LatentSegments, fisher: FisherSum
) -> None:
    with pytest.raises(ModelError, match=r"widen fisher\.layer_group"):
        unlearn(
            model,
            query,
            fisher,
            layer_group="everything",
            learning_rate=RATE,
            draws=1,
            damping=DAMPING,
            seed=SEED,
        )
