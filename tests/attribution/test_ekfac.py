"""EK-FAC against the gradients and the Fisher information that it stands for."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from tda_dagster.attribution.ekfac import (
    KroneckerFactors,
    LayerGradient,
    kronecker_factors,
    layer_gradients,
)
from tda_dagster.attribution.gradients import per_example_gradients
from tda_dagster.attribution.methods import method_class
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.objective import prediction_energy
from tda_dagster.settings import Settings, SettingsError, overridden

PLAN = NoisePlan(draws=2, seed=4)


def of_model(
    model: MusicModel, segments: LatentSegments, batch_size: int = 5
) -> Iterator[dict[str, LayerGradient]]:
    names = model.layer_group("transformer")
    return layer_gradients(model, names, segments, PLAN, mask_padding=True, batch_size=batch_size)


def test_products_make_up_the_gradients_of_weights_and_biases(
    model: MusicModel, segments: LatentSegments
) -> None:
    names = model.layer_group("transformer")
    exact = per_example_gradients(model, names, segments, PLAN, mask_padding=True, batch_size=5)
    seen = set()
    for found, expected in zip(of_model(model, segments), exact, strict=True):
        for name, gradient in found.items():
            weight = gradient.weight
            if f"{name}.bias" in names:
                torch.testing.assert_close(
                    weight[..., -1], expected[f"{name}.bias"], rtol=1e-3, atol=1e-6
                )
                weight = weight[..., :-1]
            torch.testing.assert_close(weight, expected[f"{name}.weight"], rtol=1e-3, atol=1e-6)
        seen |= set(found)
    assert {"transformer_blocks.0.attn1.to_q", "transformer_blocks.1.attn2.to_k"} <= seen


def factorial(seed: int = 0) -> tuple[LayerGradient, torch.Tensor]:
    """Gradients of a linear map of which every pull meets every input: then the exact Fisher
    information is the Kronecker product that K-FAC takes it for. With it, flat [rows, numbers]."""
    generator = torch.Generator().manual_seed(seed)
    entering, leaving = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((6, 4), (5, 3))
    )
    pairs = list(itertools.product(entering, leaving))
    gradient = LayerGradient(
        torch.stack([a for a, _ in pairs])[:, None], torch.stack([s for _, s in pairs])[:, None]
    )
    return gradient, gradient.weight.flatten(1)


@pytest.mark.parametrize("damping", [0.01, 0.3, 10.0])
def test_it_is_exact_influence_on_a_linear_layer(damping: float) -> None:
    gradient, flat = factorial()
    (factors,) = kronecker_factors(lambda: [{"layer": gradient}]).values()
    fisher = flat.T @ flat / len(flat)
    floor = damping * fisher.diagonal().mean()
    exact = flat @ torch.linalg.inv(fisher + floor * torch.eye(len(fisher))) @ flat.T
    found = flat @ factors.inverse(gradient.weight, damping).flatten(1).T
    torch.testing.assert_close(found, exact)


def test_eigenvalues_are_the_variances_of_the_gradients_along_the_basis(
    model: MusicModel, segments: LatentSegments
) -> None:
    factors = kronecker_factors(lambda: of_model(model, segments))
    name = "transformer_blocks.0.ff.net.2"
    gradients = torch.cat([batch[name].weight for batch in of_model(model, segments)]).double()
    found = factors[name]
    for basis in (found.inputs, found.outputs):
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis), dtype=torch.float64))
    along = torch.einsum("oa,roi,ib->rab", found.outputs, gradients, found.inputs)
    torch.testing.assert_close(found.eigenvalues, along.square().mean(dim=0))


def test_a_token_more_is_a_term_more_of_the_gradient() -> None:
    first, second = factorial(0)[0], factorial(1)[0]
    both = LayerGradient(
        torch.cat([first.inputs, second.inputs], dim=1),
        torch.cat([first.outputs, second.outputs], dim=1),
    )
    torch.testing.assert_close(both.weight, first.weight + second.weight)


def test_batches_do_not_matter(model: MusicModel, segments: LatentSegments) -> None:
    one, other = (
        kronecker_factors(lambda size=size: of_model(model, segments, size)) for size in (3, 14)
    )
    generator = torch.Generator().manual_seed(0)
    for name, factors in one.items():
        gradient = torch.randn(factors.eigenvalues.shape, generator=generator)
        torch.testing.assert_close(
            factors.inverse(gradient, 0.1),
            other[name].inverse(gradient, 0.1),
            rtol=1e-3,
            atol=1e-6 * float(factors.inverse(gradient, 0.1).abs().max()),
        )


def test_the_inverse_undoes_the_damped_information() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs, outputs = (
        torch.linalg.qr(torch.randn((n, n), generator=generator, dtype=torch.float64)).Q
        for n in (4, 3)
    )
    factors = KroneckerFactors(inputs, outputs, torch.rand((3, 4), generator=generator).double())
    gradient = torch.randn((3, 4), generator=generator, dtype=torch.float64)
    found = factors.inverse(gradient, 0.5)
    floor = 0.5 * factors.eigenvalues.mean()
    basis = torch.kron(outputs, inputs)
    information = basis @ factors.eigenvalues.flatten().diag() @ basis.T
    damped = information + floor * torch.eye(12)
    torch.testing.assert_close(damped @ found.flatten(), gradient.flatten())


def test_other_objectives_have_gradients_of_their_own(
    model: MusicModel, segments: LatentSegments
) -> None:
    names = model.layer_group("cross_attention")
    options = {"mask_padding": True, "batch_size": 4, "objective": prediction_energy}
    found = layer_gradients(model, names, segments, PLAN, **options)  # type: ignore[arg-type]
    exact = per_example_gradients(model, names, segments, PLAN, **options)  # type: ignore[arg-type]
    for batch, expected in zip(found, exact, strict=True):
        for name, gradient in batch.items():
            weight = gradient.weight[..., : expected[f"{name}.weight"].shape[-1]]
            torch.testing.assert_close(weight, expected[f"{name}.weight"], rtol=1e-3, atol=1e-6)


def test_weights_of_draws_are_refused() -> None:
    settings = overridden(Settings(), {"gradients.draw_weights": "unit_norm"}, "test")
    with pytest.raises(SettingsError, match=r"ekfac_influence.*gradients.*take equal"):
        method_class("ekfac_influence").of(settings)
