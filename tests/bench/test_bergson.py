"""bergson, in the environment that TDA_BERGSON_PYTHON names, against our formulas."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tda_dagster.attribution.gradients import per_example_gradients
from tda_dagster.attribution.methods import JointScoringSpec, method_class
from tda_dagster.bench.peers.bergson import PYTHON_VARIABLE
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.errors import TdaError
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


@needs_bergson
@pytest.mark.parametrize("damping", [None, 0.1])
def test_it_is_an_inner_product_under_each_layers_autocorrelation(
    study: Study, queries: LatentSegments, damping: float | None
) -> None:
    spec = spec_of(dimension=None, damping=damping)
    known, asked = (rows_of(spec, study.model, pieces) for pieces in (study.train, queries))
    expected = torch.zeros((len(queries), len(study.train)), dtype=torch.float64)
    for name, gradients in known.items():
        flat = gradients.flatten(0, 1)
        curvature = torch.eye(flat.shape[1], dtype=torch.float64)
        if damping is not None:
            autocorrelation = flat.T @ flat / len(flat)
            mean = autocorrelation.diagonal().mean()
            curvature = autocorrelation + damping * mean * curvature
        directions = torch.linalg.solve(curvature, asked[name].mean(1).T)
        expected += (gradients.mean(1) @ directions).T
    found = spec.score(study, queries)  # type: ignore[arg-type]
    assert found.dtype == torch.float64
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * scale)


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
