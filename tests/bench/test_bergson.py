"""bergson, in the environment that TDA_BERGSON_PYTHON names, against our formulas."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tda_dagster.attribution.gradients import per_example_gradients
from tda_dagster.attribution.methods import JointScoringSpec, method_class
from tda_dagster.bench.peers.bergson import PYTHON_VARIABLE, Bergson
from tda_dagster.bench.peers.peer import DrawRows
from tda_dagster.diffusion.latents import Conditioning, LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.objective import diffuse
from tda_dagster.errors import TdaError
from tda_dagster.numerics import UnfusedAttention
from tda_dagster.settings import Settings, overridden

needs_bergson = pytest.mark.skipif(
    PYTHON_VARIABLE not in os.environ,
    reason=f"{PYTHON_VARIABLE} names no environment with tda-dagster and bergson",
)


@dataclass
class Study:
    """The `Material` of this method."""

    model: MusicModel
    train: LatentSegments


@pytest.fixture(scope="module")
def study(model: MusicModel, make_segments: Callable[..., LatentSegments]) -> Study:
    return Study(model, make_segments(6))


@pytest.fixture(scope="module")
def queries(make_segments: Callable[..., LatentSegments]) -> LatentSegments:
    return replace(make_segments(2, seed=8), segment_ids=("q0", "q1"))


def spec_of(**changes: Any) -> JointScoringSpec:
    small = {
        "gradients.layer_group": "cross_attention",
        "gradients.draws": 3,
        "gradients.batch_size": 4,
        **{f"method_settings.bergson.{key}": value for key, value in changes.items()},
    }
    found = method_class("bergson").of(overridden(Settings(), small, "test"))
    assert isinstance(found, JointScoringSpec)
    return found


def rows_of(spec: Any, model: MusicModel, pieces: LatentSegments) -> dict[str, Tensor]:
    """The gradients of all draws, by weight: float64 [pieces, draws, numbers]."""
    names = model.layer_group("cross_attention")
    parts = list(
        per_example_gradients(
            model, names, pieces, spec.gradients.plan, mask_padding=True, batch_size=4
        )
    )
    return {
        name: torch.cat([part[name].flatten(1) for part in parts])
        .double()
        .reshape(len(pieces), 3, -1)
        for name in names
    }


def autocorrelation(gradients: Tensor) -> Tensor:
    rows = gradients.flatten(0, 1)
    return rows.T @ rows / len(rows)


def damped(matrix: Tensor, damping: float) -> Tensor:
    mean = matrix.diagonal().mean()
    return matrix + damping * mean * torch.eye(len(matrix), dtype=torch.float64)


def assert_scored(study: Study, queries: LatentSegments, expected: Tensor, **changes: Any) -> None:
    found = spec_of(**changes).score(study, queries)  # type: ignore[arg-type]
    assert found.dtype == torch.float64
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * scale)


@needs_bergson
@pytest.mark.parametrize("strategy", ["identity", "autocorrelation"])
def test_it_is_an_inner_product_under_each_layers_autocorrelation(
    study: Study, queries: LatentSegments, strategy: str
) -> None:
    known, asked = (rows_of(spec_of(), study.model, pieces) for pieces in (study.train, queries))
    expected = torch.zeros((len(queries), len(study.train)), dtype=torch.float64)
    for name, gradients in known.items():
        curvature = torch.eye(gradients.shape[2], dtype=torch.float64)
        if strategy == "autocorrelation":
            curvature = damped(autocorrelation(gradients), 0.2)
        directions = torch.linalg.solve(curvature, asked[name].mean(1).T)
        expected += (gradients.mean(1) @ directions).T
    assert_scored(study, queries, expected, strategy=strategy, dimension=None, damping=0.2)


@needs_bergson
@pytest.mark.parametrize("downweighted", [None, 40])
def test_trackstar_is_a_cosine_under_a_mixture_of_autocorrelations(
    study: Study, queries: LatentSegments, downweighted: int | None
) -> None:
    known, asked = (rows_of(spec_of(), study.model, pieces) for pieces in (study.train, queries))
    share = 0.0
    if downweighted is not None:
        place = downweighted - 1
        of_queries, of_train = (
            torch.cat([torch.linalg.eigvalsh(autocorrelation(g)) for g in rows.values()])
            .sort(descending=True)
            .values[place]
            for rows in (asked, known)
        )
        share = float(of_train / (of_queries + of_train))
        assert 0.1 < share < 0.9
    ends: list[list[Tensor]] = [[], []]
    for name, gradients in known.items():
        mixed = share * autocorrelation(asked[name]) + (1 - share) * autocorrelation(gradients)
        values, vectors = torch.linalg.eigh(damped(mixed, 0.1))
        root = vectors @ torch.diag(values**-0.5) @ vectors.T
        for end, rows in zip(ends, (asked, known), strict=True):
            end.append(rows[name].mean(1) @ root)
    one, other = (torch.nn.functional.normalize(torch.cat(end, 1), dim=1) for end in ends)
    changes = {"strategy": "trackstar", "dimension": None, "downweighted": downweighted}
    assert_scored(study, queries, one @ other.T, **changes)


@needs_bergson
def test_its_ekfac_is_ours(study: Study, queries: LatentSegments) -> None:
    """Under the same Fisher information, that of the training's own targets."""
    settings = {
        "gradients.layer_group": "cross_attention",
        "gradients.draws": 3,
        "gradients.dimension": None,
        "gradients.batch_size": 4,
        "method_settings": {},
    }
    ours = method_class("ekfac_influence").of(overridden(Settings(), settings, "test"))
    expected = ours.score(study, queries)  # type: ignore[attr-defined]
    assert_scored(study, queries, expected, strategy="ekfac", use_dataset_labels=True)


@needs_bergson
def test_conjugate_gradients_solve_under_the_gauss_newton_matrix(
    study: Study, queries: LatentSegments
) -> None:
    spec = spec_of()
    known, asked = (rows_of(spec, study.model, pieces) for pieces in (study.train, queries))
    names = list(known)
    curvature = gauss_newton(spec, study, names)
    # The mean eigenvalue of a layer's EK-FAC is that of its Fisher information.
    damping = [g.square().mean().expand(g.shape[2]) for g in known.values()]
    curvature += 0.1 * torch.diag(torch.cat(damping))
    one, other = (torch.cat([g[name].mean(1) for name in names], 1) for g in (asked, known))
    expected = (other @ torch.linalg.solve(curvature, one.T)).T
    changes = {"use_dataset_labels": True, "cg_rows": 100, "cg_steps": 300}
    assert_scored(study, queries, expected, strategy="ekfac_cg", **changes)


def gauss_newton(spec: Any, study: Study, names: list[str]) -> Tensor:
    """The mean over rows of 2·JᵀJ, with J the derivative in the weights of the velocities divided
    by the square root of how many count."""
    model = study.model
    weights = {n: p.detach() for n, p in model.denoiser.named_parameters() if n in names}
    size = sum(weight.numel() for weight in weights.values())
    found = torch.zeros((size, size), dtype=torch.float64)
    rows = DrawRows(model, study.train, spec.gradients, draws_per_row=1)
    for number in range(len(rows)):
        latents, noise, timesteps, cross, global_, mask = (
            part.unsqueeze(0) for part in rows[number]
        )
        noised, _ = diffuse(latents, noise[0], timesteps[0])
        conditioning = Conditioning(cross, global_)

        def counted(
            changed: dict[str, Tensor],
            noised: Tensor = noised,
            timesteps: Tensor = timesteps[0],
            conditioning: Conditioning = conditioning,
            mask: Tensor = mask[0],
        ) -> Tensor:
            return model.predict(changed, noised, timesteps, conditioning)[0][:, mask]

        with UnfusedAttention():
            parts = torch.func.jacrev(counted)(weights)
        jacobian = torch.cat([parts[name].flatten(2).flatten(0, 1) for name in names], dim=1)
        jacobian = jacobian.double()
        found += 2 * jacobian.T @ jacobian / len(jacobian) / len(rows)
    return found


@needs_bergson
def test_sampled_outputs_make_another_ekfac(study: Study, queries: LatentSegments) -> None:
    sampled, empirical = (
        spec_of(strategy="ekfac", use_dataset_labels=labels).score(study, queries)  # type: ignore[arg-type]
        for labels in (False, True)
    )
    assert not torch.allclose(sampled, empirical, rtol=1e-2)
    both = torch.stack([sampled.flatten(), empirical.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.8


def test_labels_and_slugs_tell_strategies_apart() -> None:
    specs = [
        spec_of(strategy=name) for name in get_args(Bergson.model_fields["strategy"].annotation)
    ]
    assert len({spec.label for spec in specs}) == len(specs) == 5
    assert len({spec.method_id for spec in specs}) == len(specs)


def test_without_its_environment_the_way_to_it_is_told(
    study: Study, queries: LatentSegments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    with pytest.raises(TdaError, match=f"environment of its own.*{PYTHON_VARIABLE}"):
        spec_of().score(study, queries)  # type: ignore[arg-type]
    monkeypatch.setenv(PYTHON_VARIABLE, "/no/such/python")
    with pytest.raises(TdaError, match="/no/such/python does not start"):
        spec_of().score(study, queries)  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_environment_without_it_is_told(
    study: Study, queries: LatentSegments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    with pytest.raises(TdaError, match="No module named 'bergson'"):
        spec_of().score(study, queries)  # type: ignore[arg-type]
