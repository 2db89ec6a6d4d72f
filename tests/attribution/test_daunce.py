"""Daunce: the covariance of losses over perturbed models, and what of it is shared."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tda_dagster.attribution.methods import Material, method_class
from tda_dagster.attribution.methods.daunce import Daunce, PerturbedModel, PerturbedTraining
from tda_dagster.attribution.sweep import sweep
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.errors import TdaError
from tda_dagster.settings import Settings

pytestmark = pytest.mark.usefixtures("untouched")

PAIRS, DRAWS = 3, 2


def daunce(**own: object) -> Daunce:
    changes = {
        "training": {"steps": 2, "batch_size": 3, "learning_rate": 1e-3},
        "pairs": PAIRS,
        "noise": {"draws": DRAWS},
        **own,
    }
    found = method_class("daunce").of(Settings(method_settings={"daunce": changes}))
    assert isinstance(found, Daunce)
    return found


def perturbed(study: Material, spec: Daunce, number: int, sign: int) -> dict[str, Tensor]:
    path = study.folder / f"{number}{sign}"  # type: ignore[attr-defined]
    if not path.exists():
        task = PerturbedModel(training=spec.training, number=number, sign=sign)  # type: ignore[arg-type]
        task.run(study, None, None, path)
    return load_file(path)


def test_scores_are_the_covariance_of_losses_over_pairs(
    study: Material, model: MusicModel, queries: LatentSegments
) -> None:
    spec = daunce(mask_padding=True)
    plan = NoisePlan(**spec.noise.model_dump())

    def losses(pieces: LatentSegments, number: int, sign: int) -> np.ndarray:
        found = sweep(model, pieces, plan, perturbed(study, spec, number, sign))["loss_valid"]
        return found.to_numpy().reshape(len(pieces), DRAWS).mean(axis=1)

    expected = np.zeros((len(queries), len(study.train)))
    for number in range(PAIRS):
        asked, segments = (
            (losses(part, number, 1) - losses(part, number, -1)) / 2
            for part in (queries, study.train)
        )
        expected += np.outer(asked, segments) / PAIRS
    samples = spec.samples(study, queries)
    assert samples.shape == (PAIRS, len(queries), len(study.train))
    np.testing.assert_allclose(samples.mean(dim=0).numpy(), expected, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(spec.score(study, queries), samples.mean(dim=0))


def test_a_first_step_weights_each_loss_by_one_plus_its_sign(study: Material) -> None:
    # Of one segment, the weights of its loss are 2 and 0: one model moves, the other does not.
    spec = daunce(training={"steps": 1, "batch_size": 1, "learning_rate": 1e-3})
    moved = [
        math.sqrt(sum(float(d.square().sum()) for d in delta.values()))
        for delta in (perturbed(study, spec, 7, sign) for sign in (1, -1))
    ]
    assert sorted(moved)[0] == 0.0
    assert sorted(moved)[1] > 0.0


def test_signs_belong_to_segments_and_not_to_places(study: Material) -> None:
    task = PerturbedModel(training=PerturbedTraining(), number=0, sign=1)
    other = task.model_copy(update={"sign": -1})
    signs = task._signs(study.train)
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert torch.equal(task._signs(study.train.take([4, 1])), signs[[4, 1]])
    assert torch.equal(other._signs(study.train), -signs)


def test_the_sweeps_of_training_segments_are_shared_by_all_queries(
    study: Material, queries: LatentSegments, make_segments: Callable[..., LatentSegments]
) -> None:
    spec = daunce(noise={"draws": 1})
    ran: list[str] = study.ran  # type: ignore[attr-defined]
    spec.score(study, queries)
    ran.clear()
    spec.score(study, make_segments(1, seed=12))
    assert len(ran) == 2 * PAIRS


def test_weights_that_are_not_finite_name_the_setting(study: Material) -> None:
    training = PerturbedTraining(steps=2, batch_size=2, learning_rate=1e30)
    task = PerturbedModel(training=training, number=0, sign=1)
    path = study.folder / "infinite"  # type: ignore[attr-defined]
    with pytest.raises(TdaError, match=r"perturbed model 0.*daunce\.training\.learning_rate"):
        task.run(study, None, None, path)
