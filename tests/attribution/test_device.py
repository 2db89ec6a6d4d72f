"""An accelerator finds what the processor finds. Runs where torch sees a CUDA device."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tda_dagster.attribution.fisher import estimate_fisher
from tda_dagster.attribution.methods import (
    METHODS,
    JointScoringSpec,
    Material,
    MethodSpec,
    ScoringSpec,
    UnlearningSpec,
    method_class,
)
from tda_dagster.attribution.sweep import sweep
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.opening import open_model
from tda_dagster.settings import Settings, overridden

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

BY_EMBEDDING = {"timbre", "melody", "clap", "caption", "random"}
"""Methods that ask no model."""
OURS = [name for name, place in METHODS.items() if ".peers" not in place]
SETTINGS = overridden(
    Settings(),
    {
        "gradients.draws": 2,
        "gradients.dimension": None,
        "unlearning.draws": 2,
        "sweep.draws": 4,
        "method_settings": {"mucs": {"max_steps": 2, "bound": 100.0}},
    },
    "test",
)


@pytest.fixture(scope="module")
def studies(
    spectral_folder: Path, make_study: Callable[[MusicModel, str], Material]
) -> list[Material]:
    """The same study on the processor and on the accelerator."""
    return [make_study(open_model(spectral_folder, d), d) for d in ("cpu", "cuda")]


def found(method: MethodSpec, study: Material, queries: LatentSegments) -> Tensor:
    """What a method finds, [queries, segments], by the processor's float32."""
    if isinstance(method, JointScoringSpec):
        return method.score(study, queries).cpu()
    if isinstance(method, ScoringSpec):
        return method.score(study, queries, study.train).cpu()
    assert isinstance(method, UnlearningSpec)
    rises = []
    for row in range(len(queries)):
        delta = method.unlearn(study, queries.take([row])).delta
        before, after = (
            sweep(study.model, study.train, method.plan, d)["loss"].to_torch() for d in ({}, delta)
        )
        rises.append((after - before).view(len(study.train), -1).mean(dim=1))
    return torch.stack(rises)


@pytest.mark.parametrize("name", sorted(set(OURS) - BY_EMBEDDING))
def test_every_method_scores_alike(
    name: str, studies: list[Material], queries: LatentSegments
) -> None:
    processor, accelerator = (found(method_class(name).of(SETTINGS), s, queries) for s in studies)
    size = processor.double().square().mean().sqrt()
    apart = (accelerator.double() - processor.double()).square().mean().sqrt()
    assert size > 0
    assert apart < 0.01 * size


def test_fisher_information_is_alike(studies: list[Material], segments: LatentSegments) -> None:
    plan = NoisePlan(draws=3, seed=2)
    sums = [estimate_fisher(study.model, segments, plan).sums for study in studies]
    for name, value in sums[0].items():
        torch.testing.assert_close(sums[1][name], value, rtol=1e-2, atol=1e-8)


def test_losses_on_the_accelerator_are_the_same_every_time(
    studies: list[Material], segments: LatentSegments
) -> None:
    model, plan = studies[1].model, NoisePlan(draws=3, seed=2)
    one, other = (sweep(model, segments, plan) for _ in range(2))
    assert one.equals(other)


def test_a_piece_is_generated_and_encoded(studies: list[Material]) -> None:
    model = studies[1].model
    latents = model.generate(
        "a slow organ prelude", negative_prompt="", seed=1, seconds=0.4, steps=4, guidance_scale=2.0
    )
    audio = model.decode(latents.unsqueeze(0))
    assert bool(torch.isfinite(audio).all())
    assert model.encode(audio).shape[1:] == latents.shape
