"""Gradient features against a loop of backward passes, and the methods against their formulas."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from tda_dagster.attribution.ekfac import LayerGradient, kronecker_factors, layer_gradients
from tda_dagster.attribution.features import (
    DRAW_WEIGHTS,
    GradientSpec,
    gradient_features,
    random_projection,
    whole,
)
from tda_dagster.attribution.influence import (
    inner_products,
    kernel_direction,
    kernel_influence,
)
from tda_dagster.attribution.methods import (
    JointScoringSpec,
    Material,
    UnlearningSpec,
    method_class,
)
from tda_dagster.attribution.methods.gradient_influence import GradientInfluenceSpec
from tda_dagster.attribution.similarity import cosine
from tda_dagster.attribution.sweep import sweep
from tda_dagster.attribution.unlearning import unlearn
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.objective import diffuse, prediction_energy
from tda_dagster.errors import TdaError
from tda_dagster.settings import Settings, overridden

ByHand = Callable[..., dict[str, Tensor]]
PLAN = NoisePlan(draws=3, seed=4)


@pytest.fixture(scope="module")
def names(model: MusicModel) -> tuple[str, ...]:
    return model.layer_group("cross_attention")


@pytest.fixture(scope="module")
def features(model: MusicModel, names: tuple[str, ...]) -> Callable[..., Tensor]:
    return partial(gradient_features, model, names, mask_padding=True, together=PLAN.draws)


@pytest.fixture(scope="module")
def expected(
    twin: MusicModel,
    names: tuple[str, ...],
    segments: LatentSegments,
    gradient_by_hand: ByHand,
) -> Tensor:
    """Every segment's gradient, one backward pass per draw, averaged: [segments, numbers]."""
    rows = []
    for row in range(len(segments)):
        one = segments.take([row])
        draws = [gradient_by_hand(twin, one, PLAN, k, True) for k in range(PLAN.draws)]
        rows.append(
            torch.stack([torch.cat([d[name].flatten() for name in names]) for d in draws]).mean(0)
        )
    return torch.stack(rows)


def test_they_are_the_gradients_of_a_backward_pass_per_draw_averaged(
    features: Callable[..., Tensor], segments: LatentSegments, expected: Tensor
) -> None:
    found = features(segments, PLAN, project=whole, batch_size=4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-7)


def test_draws_that_are_not_averaged_are_the_gradients_of_each(
    features: Callable[..., Tensor], segments: LatentSegments, expected: Tensor
) -> None:
    alone = features(segments, PLAN, project=whole, batch_size=4, together=1)
    assert alone.shape == (len(segments) * PLAN.draws, expected.shape[1])
    mean = alone.reshape(len(segments), PLAN.draws, -1).mean(dim=1)
    torch.testing.assert_close(mean.double(), expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_neither_batches_nor_neighbours_nor_memory_matter(
    features: Callable[..., Tensor],
    segments: LatentSegments,
    batch_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = random_projection(32, seed=0)
    together = features(segments, PLAN, project=project, batch_size=7)
    monkeypatch.setattr("tda_dagster.attribution.features._HELD_BYTES", 1.0)  # one piece at a time
    found = features(segments.take([5, 1]), PLAN, project=project, batch_size=batch_size)
    torch.testing.assert_close(found, together[[5, 1]], rtol=1e-4, atol=1e-7)


def test_a_projection_is_a_product_with_one_matrix_of_signs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tda_dagster.attribution.features._BLOCK", 10)
    project = random_projection(16, seed=3)
    matrix = project(torch.eye(37))
    assert torch.equal(matrix.abs(), torch.full((37, 16), 0.25))
    assert abs(float(matrix.mean())) < 0.05
    vectors = torch.randn((5, 37), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(project(vectors), vectors @ matrix)
    assert not torch.equal(random_projection(16, seed=4)(torch.eye(37)), matrix)


def test_a_projection_keeps_inner_products_on_average() -> None:
    vectors = torch.randn((4, 300), generator=torch.Generator().manual_seed(0))
    exact = inner_products(vectors, vectors)
    found = torch.stack(
        [
            inner_products(projected, projected)
            for projected in (random_projection(256, seed)(vectors) for seed in range(40))
        ]
    )
    # An inner product's variance is at most 2·|a|²|b|²/dimension; 40 matrices are averaged.
    norms = exact.diagonal().sqrt()
    allowed = 4 * (2 / 256 / 40) ** 0.5 * torch.outer(norms, norms)
    assert ((found.mean(0) - exact).abs() < allowed).all()


def test_energy_is_the_mean_square_of_what_is_predicted(
    model: MusicModel, segments: LatentSegments
) -> None:
    conditioning = model.condition(
        segments.captions, segments.seconds_start, segments.seconds_total
    )
    noise = PLAN.noise(segments.segment_ids, model.latent_shape)[:, 0]
    times = PLAN.timesteps()[:1].expand(len(segments))
    noised, _ = diffuse(segments.latents, noise, times)
    predicted = model(noised, times, conditioning)
    found = prediction_energy(
        model, segments.latents, conditioning, noise, times, segments.frame_mask()
    )
    for row, valid in enumerate(segments.valid_frames.tolist()):
        expected = predicted[row, :, :valid].square().mean()
        torch.testing.assert_close(found[row], expected)


def test_the_kernel_form_is_the_inverse_of_the_whole_fisher_information() -> None:
    generator = torch.Generator().manual_seed(1)
    segments = torch.randn((9, 14), generator=generator, dtype=torch.float64)
    queries = torch.randn((3, 14), generator=generator, dtype=torch.float64)
    damping, count = 0.3, len(segments)
    fisher = segments.T @ segments / count
    floor = damping * float((segments @ segments.T).diagonal().sum()) / count**2
    inverse = torch.linalg.inv(fisher + floor * torch.eye(14, dtype=torch.float64))
    expected = queries @ inverse @ segments.T / count
    torch.testing.assert_close(kernel_influence(queries, segments, damping), expected)


def test_the_direction_of_the_kernel_is_that_of_the_whole_fisher_information() -> None:
    generator = torch.Generator().manual_seed(1)
    segments = torch.randn((9, 14), generator=generator, dtype=torch.float64)
    query = torch.randn(14, generator=generator, dtype=torch.float64)
    found = kernel_direction(query, segments, 0.3)
    (influence,) = kernel_influence(query[None], segments, 0.3)
    torch.testing.assert_close(segments @ found / len(segments), influence)


def test_draws_of_unit_norm_count_alike(
    features: Callable[..., Tensor],
    twin: MusicModel,
    names: tuple[str, ...],
    segments: LatentSegments,
    gradient_by_hand: ByHand,
) -> None:
    one = segments.take([1])
    found = features(one, PLAN, project=whole, batch_size=2, weighted=DRAW_WEIGHTS["unit_norm"])
    draws = []
    for k in range(PLAN.draws):
        gradient = gradient_by_hand(twin, one, PLAN, k, True)
        flat = torch.cat([gradient[name].flatten() for name in names])
        draws.append(flat / flat.norm())
    torch.testing.assert_close(found[0].double(), torch.stack(draws).mean(0), rtol=1e-3, atol=1e-7)


def test_draws_are_taken_from_the_range_that_is_asked_for() -> None:
    options = dict(SETTINGS.gradients) | {"timestep_min": 0.5, "timestep_max": 0.75}
    times = GradientSpec(**options).plan.timesteps()
    assert ((times >= 0.5) & (times <= 0.75)).all()


def test_it_points_at_the_same_segments_as_inner_products_when_damping_is_large() -> None:
    generator = torch.Generator().manual_seed(1)
    segments, queries = (torch.randn((n, 14), generator=generator) for n in (9, 3))
    found = kernel_influence(queries, segments, 1e9)
    plain = inner_products(queries, segments)
    torch.testing.assert_close(found / found.norm(), plain / plain.norm(), rtol=1e-5, atol=1e-8)


SETTINGS = overridden(
    Settings(),
    {
        "gradients.draws": 2,
        "gradients.dimension": None,
        "unlearning.draws": 2,
        "method_settings": {},
    },
    "test",
)


def spec_of(name: str) -> JointScoringSpec:
    found = method_class(name).of(SETTINGS)
    assert isinstance(found, JointScoringSpec)
    return found


def vectors_of(
    model: MusicModel, pieces: Sequence[LatentSegments], objective: str = "loss"
) -> list[Tensor]:
    spec = GradientSpec(**dict(SETTINGS.gradients), objective=objective)  # type: ignore[arg-type]
    return [spec.features(model, p).double() for p in pieces]


def floor(features: Tensor) -> Tensor:
    """What a relative damping of one adds to the second moment of features, by its definition."""
    return features.square().sum() / len(features) * torch.eye(features.shape[1]).double()


def test_each_method_is_its_formula(study: Material, queries: LatentSegments) -> None:
    pieces = (queries, study.train)
    g, everything = vectors_of(study.model, pieces)
    energy_g, energy = vectors_of(study.model, pieces, "energy")
    mean_g, mean = vectors_of(study.model, pieces, "mean")
    inverse = torch.linalg.inv(mean.T @ mean + 1e-2 * floor(mean))
    leverage = (mean @ inverse @ mean.T).diagonal()
    plan = GradientSpec(**dict(SETTINGS.gradients)).plan
    errors = sweep(study.model, study.train, plan)["loss_valid"].to_numpy().reshape(-1, 2).mean(1)
    moved = mean_g @ inverse @ mean.T * torch.from_numpy(errors).sqrt() / (1 - leverage)
    along = [vectors_of(at, pieces) for at in study.earlier.values()]
    kernels = [kernel_influence(*pair, 1.0) for pair in along]
    expected = {
        "grad_dot": g @ everything.T,
        "grad_cosine": cosine(g, everything),
        "tracin": sum(
            c.learning_rate * (a @ b.T) for c, (a, b) in zip(study.checkpoints, along, strict=True)
        ),
        "trak": kernel_influence(g, everything, 1e-3),
        "d_trak": kernel_influence(energy_g, energy, 1e-3),
        "das": moved.square(),
        "kernel_influence": kernel_influence(g, everything, 1.0),
        "trajectory_influence": sum(
            k / kernel_influence(own, own, 1.0).square().mean().sqrt()
            for k, (_, own) in zip(kernels, along, strict=True)
        )
        / 2,
    }
    for name, scores in expected.items():
        found = spec_of(name).score(study, queries)  # type: ignore[arg-type]
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, scores, msg=name, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", ["tracin", "trajectory_influence"])
def test_a_model_without_stored_checkpoints_is_refused_with_a_way_out(
    name: str, study: Material, queries: LatentSegments
) -> None:
    with pytest.raises(TdaError, match=f"{name}: .*kernel_influence"):
        spec_of(name).score(replace(study, earlier={}), queries)  # type: ignore[arg-type]


def test_fisher_influence_is_the_derivative_of_unlearning(
    study: Material, queries: LatentSegments
) -> None:
    """The central difference of losses along a tiny unlearning step, per unit of its rate."""
    method = method_class("fisher_influence").of(SETTINGS)
    found = method.score(study, queries, study.train)  # type: ignore[attr-defined]
    options = dict(SETTINGS.unlearning)
    rate = 1e-4
    plan = NoisePlan(draws=method.draws, seed=method.seed)  # type: ignore[attr-defined]
    for row in range(len(queries)):
        made = unlearn(
            study.model,
            queries.take([row]),
            study.fisher,
            **options | {"learning_rate": rate, "seed": SETTINGS.unlearning.seed},
        )
        up, down = (
            sweep(study.model, study.train, plan, {n: sign * d for n, d in made.delta.items()})
            for sign in (1, -1)
        )
        slope = (up["loss"] - down["loss"]).to_numpy().reshape(len(study.train), -1).mean(1)
        slope = torch.from_numpy(slope) / (2 * rate)
        torch.testing.assert_close(
            found[row], slope, rtol=0.05, atol=0.02 * float(slope.abs().max())
        )


def test_kernel_unlearning_steps_along_the_direction_and_as_far_as_asked(
    study: Material, queries: LatentSegments
) -> None:
    method = method_class("kernel_unlearning").of(SETTINGS)
    assert isinstance(method, UnlearningSpec)
    g, everything = vectors_of(study.model, (queries, study.train))
    names = study.model.layer_group(SETTINGS.gradients.layer_group)
    size = torch.cat([w.flatten() for w in study.model.weights(names).values()]).norm()
    for row in range(len(queries)):
        made = method.unlearn(study, queries.take([row]))  # type: ignore[arg-type]
        step = torch.cat([made.delta[name].flatten() for name in names]).double()
        direction = kernel_direction(g[row], everything, 1.0)
        torch.testing.assert_close(
            step / step.norm(), direction / direction.norm(), rtol=1e-4, atol=1e-6
        )
        torch.testing.assert_close(step.norm(), 1e-3 * size.double(), rtol=1e-4, atol=0)
        rise = sweep(study.model, queries.take([row]), method.gradients.plan, made.delta)
        assert rise["loss_valid"].mean() > made.query_losses[0]


def test_ekfac_influence_is_the_factored_inverse_between_mean_gradients(
    study: Material, queries: LatentSegments
) -> None:
    method = spec_of("ekfac_influence")
    options = method.gradients  # type: ignore[attr-defined]
    names = study.model.layer_group(options.layer_group)

    def gradients(pieces: LatentSegments) -> Iterator[dict[str, LayerGradient]]:
        return layer_gradients(
            study.model, names, pieces, options.plan, mask_padding=True, batch_size=options.draws
        )

    factors = kronecker_factors(lambda: gradients(study.train))
    expected = torch.zeros((len(queries), len(study.train)), dtype=torch.float64)
    for q, asked in enumerate(gradients(queries)):  # a batch is the draws of one piece
        for i, of_segment in enumerate(gradients(study.train)):
            for name, factor in factors.items():
                way = factor.inverse(asked[name].weight.mean(dim=0), 0.1)
                expected[q, i] += (way * of_segment[name].weight.mean(dim=0)).sum()
    found = method.score(study, queries)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected / len(study.train), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["grad_dot", "trak", "d_trak", "tracin", "trajectory_influence"])
def test_samples_are_the_scores_of_the_draws_alone(
    name: str, study: Material, queries: LatentSegments
) -> None:
    """With one draw asked about at a time, and segments as they are: their mean is the score."""
    spec = spec_of(name)
    samples = spec.samples(study, queries)  # type: ignore[arg-type]
    assert samples.shape == (2, len(queries), len(study.train))
    assert not torch.allclose(samples[0], samples[1])
    whole = spec.score(study, queries)  # type: ignore[arg-type]
    torch.testing.assert_close(samples.mean(dim=0), whole)


def test_the_spread_of_samples_is_that_of_other_draws(
    study: Material, queries: LatentSegments
) -> None:
    """Scores under other draws lie as far apart as the standard error of one says."""
    many = overridden(SETTINGS, {"gradients.draws": 16, "gradients.draw_weights": "unit_norm"}, "t")
    spec = method_class("grad_dot").of(many)
    assert isinstance(spec, GradientInfluenceSpec)
    segments = study.features(spec.features)
    others = []
    for seed in range(12):
        asked = spec.features.model_copy(update={"seed": 100 + seed})
        others.append(inner_products(asked.features(study.model, queries), segments))
    errors = spec.samples(study, queries).std(dim=0) / 16**0.5  # type: ignore[arg-type]
    ratio = torch.stack(others).std(dim=0) / errors
    assert 0.5 < float(ratio.median()) < 1.5


def test_an_ensemble_shares_the_checkpoints_of_its_unlearning(
    study: Material, queries: LatentSegments
) -> None:
    ensemble = method_class("unlearning_ensemble").of(SETTINGS)
    alone = method_class("fim_unlearning").of(SETTINGS)
    assert isinstance(ensemble, UnlearningSpec)
    assert isinstance(alone, UnlearningSpec)
    assert ensemble.unlearning_config == alone.unlearning_config
    assert ensemble.method_id != alone.method_id
    one = queries.take([0])
    made, expected = (spec.unlearn(study, one).delta for spec in (ensemble, alone))  # type: ignore[arg-type]
    assert all(torch.equal(made[name], value) for name, value in expected.items())
    samples = ensemble.other_samples(study, queries)  # type: ignore[arg-type]
    assert samples is not None
    torch.testing.assert_close(
        samples,
        spec_of("kernel_influence").samples(study, queries),  # type: ignore[arg-type]
    )
