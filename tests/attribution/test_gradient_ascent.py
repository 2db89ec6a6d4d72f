"""Gradient ascent: along the plain gradient, as far as FIM unlearning raises the query's loss."""

import pytest
import torch

from tda_dagster.attribution.gradients import mean_gradient
from tda_dagster.attribution.methods import Material
from tda_dagster.attribution.methods.gradient_ascent import GradientAscent
from tda_dagster.attribution.sweep import sweep
from tda_dagster.attribution.unlearning import UnlearningError, unlearn
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.settings import Settings, UnlearningSettings

pytestmark = pytest.mark.usefixtures("untouched")

OPTIONS = UnlearningSettings(learning_rate=0.05, draws=4, damping=0.3, seed=21)


@pytest.fixture(scope="module")
def query(segments: LatentSegments) -> LatentSegments:
    return segments.take([1])


def rise(model: MusicModel, query: LatentSegments, delta: object) -> float:
    plan = NoisePlan(draws=OPTIONS.draws, seed=OPTIONS.seed)
    before, after = (sweep(model, query, plan, d)["loss_valid"].to_numpy() for d in ({}, delta))  # type: ignore[arg-type]
    return float((after - before).mean())


def test_the_query_s_loss_rises_as_by_fim_unlearning(
    study: Material, model: MusicModel, query: LatentSegments
) -> None:
    spec = GradientAscent.of(Settings(unlearning=OPTIONS))
    result = spec.unlearn(study, query)
    fim = unlearn(model, query, study.fisher, **dict(OPTIONS))
    wanted = rise(model, query, fim.delta)
    assert wanted > 0
    assert rise(model, query, result.delta) == pytest.approx(wanted, rel=0.01)
    assert "as by FIM unlearning" in result.stopped


def test_the_step_is_along_the_gradient(
    study: Material, model: MusicModel, query: LatentSegments
) -> None:
    result = GradientAscent.of(Settings(unlearning=OPTIONS)).unlearn(study, query)
    plan = NoisePlan(draws=OPTIONS.draws, seed=OPTIONS.seed)
    gradient, _ = mean_gradient(
        model, list(result.delta), query, plan, mask_padding=True, batch_size=16
    )
    ours, along = (
        torch.cat([d[name].flatten().double() for name in result.delta])
        for d in (result.delta, gradient)
    )
    assert float(torch.nn.functional.cosine_similarity(ours, along, dim=0)) == pytest.approx(1.0)


def test_a_loss_that_fim_unlearning_does_not_raise_cannot_be_matched(
    study: Material, query: LatentSegments, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A step so small that the loss, rounded, stays what it was.
    options = OPTIONS.model_copy(update={"learning_rate": 1e-12})
    spec = GradientAscent.of(Settings(unlearning=options))
    with pytest.raises(UnlearningError, match=r"no rise to match|changes its loss"):
        spec.unlearn(study, query)
