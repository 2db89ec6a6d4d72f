"""Other libraries' methods against our formulas, where they implement the same ones."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tda_dagster.attribution.features import GradientSpec, TrainingCheckpoint
from tda_dagster.attribution.influence import kernel_influence
from tda_dagster.attribution.methods import JointScoringSpec, experiment_specs, method_class
from tda_dagster.bench import lay_out_study
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.errors import TdaError
from tda_dagster.settings import Settings, SettingsError, load_settings, overridden

pytestmark = pytest.mark.slow

LIBRARIES = {
    "traker_trak": "trak",
    "dattri_trak": "dattri",
    "dattri_tracin": "dattri",
    "kronfluence": "kronfluence",
}
SETTINGS = {
    "gradients.layer_group": "cross_attention",
    "gradients.draws": 3,
    "gradients.dimension": None,
    "gradients.batch_size": 4,
    "method_settings": {},  # ours on the same objective as theirs, the loss
    "method_settings.traker_trak.dimension": 6,
    "method_settings.dattri_trak.dimension": 6,
}


@dataclass
class Study:
    """The `Material` of these methods: a model, two checkpoints of it, and a few segments."""

    model: MusicModel
    train: LatentSegments
    earlier: dict[int, MusicModel]

    @property
    def checkpoints(self) -> tuple[TrainingCheckpoint, ...]:
        return tuple(TrainingCheckpoint(step, 0.1 * step) for step in self.earlier)

    def model_at(self, checkpoint: TrainingCheckpoint | None) -> MusicModel:
        return self.model if checkpoint is None else self.earlier[checkpoint.step]

    def features(self, spec: GradientSpec, checkpoint: TrainingCheckpoint | None = None) -> Tensor:
        return spec.features(self.model_at(checkpoint), self.train)


@pytest.fixture(scope="module")
def study(
    model: MusicModel, make_segments: Callable[..., LatentSegments], spectral_folder: Path
) -> Study:
    from tda_dagster.diffusion.opening import open_model

    earlier = {}
    for step in (2, 5):
        at = open_model(spectral_folder)
        with torch.no_grad():
            for parameter in at.denoiser.parameters():
                parameter *= 1 - 0.05 * step
        earlier[step] = at
    return Study(model, make_segments(10), earlier)


@pytest.fixture(scope="module")
def queries(make_segments: Callable[..., LatentSegments]) -> LatentSegments:
    return replace(make_segments(3, seed=8), segment_ids=("q0", "q1", "q2"))


def spec_of(name: str, **changes: Any) -> JointScoringSpec:
    """A method under small settings and its own `changes`; a peer's test is skipped where its
    library is missing."""
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name], reason='comes with pip install "tda-dagster[peers]"')
    own = {f"method_settings.{name}.{key}": value for key, value in changes.items()}
    found = method_class(name).of(overridden(Settings(), SETTINGS | own, "test"))
    assert isinstance(found, JointScoringSpec)
    return found


def scores_of(name: str, study: Study, queries: LatentSegments, **changes: Any) -> Tensor:
    found = spec_of(name, **changes).score(study, queries)  # type: ignore[arg-type]
    assert found.dtype == torch.float64
    assert found.shape == (len(queries), len(study.train))
    return found


@pytest.fixture(scope="module")
def of_kronfluence(study: Study, queries: LatentSegments) -> Callable[..., Tensor]:
    """Its scores; each run of it takes seconds, so that equal ones are made once."""
    return cache(partial(scores_of, "kronfluence", study, queries))


def gradients_of(study: Study, pieces: LatentSegments) -> Tensor:
    return spec_of("grad_dot").gradients.features(study.model, pieces)  # type: ignore[attr-defined,no-any-return]


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


def correlation(found: Tensor, expected: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1])


def test_tracin_of_dattri_is_ours(study: Study, queries: LatentSegments) -> None:
    found = scores_of("dattri_tracin", study, queries, dimension=None)
    assert_close(found, scores_of("tracin", study, queries))


def test_a_projection_is_what_dattri_does_unless_told_otherwise(
    study: Study, queries: LatentSegments
) -> None:
    found, exact = (scores_of(name, study, queries) for name in ("dattri_tracin", "tracin"))
    assert not torch.allclose(found, exact, rtol=1e-3)
    assert correlation(found, exact) > 0.9


def test_trak_of_dattri_is_trak_in_its_projection(study: Study, queries: LatentSegments) -> None:
    found = scores_of("dattri_trak", study, queries)
    from dattri.func.projection import random_project

    parts = []
    for pieces in (queries, study.train):
        gradients = in_order_of_module(study.model, gradients_of(study, pieces))
        project = random_project(gradients, len(gradients), 6, 32, proj_seed=7)
        parts.append(project(gradients).double())
    asked, features = parts
    assert_close(found, asked @ torch.linalg.inv(features.T @ features) @ features.T, 1e-2)


def in_order_of_module(model: MusicModel, gradients: Tensor) -> Tensor:
    """Gradients with the weights in the order of the module, not in that of the layer group."""
    names = model.layer_group("cross_attention")
    sizes = [model.parameter_count([name]) for name in names]
    parts = dict(zip(names, gradients.split(sizes, dim=1), strict=True))
    return torch.cat([parts[n] for n, _ in model.denoiser.named_parameters() if n in parts], dim=1)


def test_trak_of_traker_is_kernel_influence_given_many_directions(
    study: Study, queries: LatentSegments
) -> None:
    found = scores_of("traker_trak", study, queries, dimension=2000, damping=0.1)
    asked, features = (gradients_of(study, pieces) for pieces in (queries, study.train))
    assert correlation(found, kernel_influence(asked, features, 0.1)) > 0.98


def test_kronfluence_without_curvature_is_the_inner_product(
    study: Study, queries: LatentSegments, of_kronfluence: Callable[..., Tensor]
) -> None:
    linear = spec_of("kronfluence").linear_layers(study.model)  # type: ignore[attr-defined]
    group = study.model.layer_group("cross_attention")
    assert {f"{name}.weight" for name in linear} == set(group)  # all of them, so it must agree
    assert_close(of_kronfluence(strategy="identity"), scores_of("grad_dot", study, queries))


def test_ekfac_of_kronfluence_is_ours(
    study: Study, queries: LatentSegments, of_kronfluence: Callable[..., Tensor]
) -> None:
    """Under the same Fisher information, that of the training's own targets; per segment."""
    found = of_kronfluence(use_empirical_fisher=True) / len(study.train)
    assert_close(found, scores_of("ekfac_influence", study, queries))


def test_sampled_outputs_make_another_curvature_of_much_the_same_kind(
    of_kronfluence: Callable[..., Tensor],
) -> None:
    sampled, empirical = of_kronfluence(), of_kronfluence(use_empirical_fisher=True)
    assert not torch.allclose(sampled, empirical, rtol=1e-3)
    assert correlation(sampled, empirical) > correlation(
        sampled, of_kronfluence(strategy="identity")
    )


@pytest.mark.parametrize("name", LIBRARIES)
def test_neither_order_nor_batches_matter_and_the_model_stays_as_it_is(
    name: str, study: Study, queries: LatentSegments
) -> None:
    before = {n: p.clone() for n, p in study.model.denoiser.named_parameters()}
    found = scores_of(name, study, queries)
    order = [3, 9, 0, 7, 1, 2, 8, 5, 4, 6]
    other = replace(study, train=study.train.take(order))
    gradients = {"batch_size": 7}
    assert_close(scores_of(name, other, queries, gradients=gradients), found[:, order], 1e-2)
    after = dict(study.model.denoiser.named_parameters())
    assert list(after) == list(before)
    for weight, value in before.items():
        assert torch.equal(after[weight], value)
        assert not after[weight].requires_grad


@pytest.mark.parametrize(("name", "library"), LIBRARIES.items())
def test_without_the_library_the_way_to_it_is_told(
    name: str,
    library: str,
    study: Study,
    queries: LatentSegments,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = method_class(name).of(overridden(Settings(), SETTINGS, "test"))
    for module in [library, *(m for m in sys.modules if m.startswith(f"{library}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TdaError, match=r'pip install "tda-dagster\[peers\]"'):
        spec.score(study, queries)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["traker_trak", "dattri_trak"])
def test_more_directions_than_segments_need_regularisation(
    name: str, study: Study, queries: LatentSegments
) -> None:
    with pytest.raises(TdaError, match=f"11 directions.*10 .*method_settings.{name}.dimension"):
        scores_of(name, study, queries, dimension=11)


def test_weights_of_draws_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"gradients.*draw_weights: equal"):
        spec_of("traker_trak", gradients={"draw_weights": "unit_norm"})


def test_the_dimension_of_our_projection_is_not_of_a_peer() -> None:
    changed = overridden(Settings(), SETTINGS | {"gradients.dimension": 99}, "test")
    assert method_class("dattri_trak").of(changed) == spec_of("dattri_trak")


def test_the_bench_has_all_of_them_under_labels_that_tell_them_apart(tmp_path: Path) -> None:
    lay_out_study(tmp_path)
    specs = experiment_specs(load_settings(tmp_path / "params.yaml"), "peers")
    assert {spec.method for spec in specs} == set(LIBRARIES)
    assert {spec.family for spec in specs} == {"peer"}
    labels = [spec.label for spec in specs]
    assert len(set(labels)) == len(labels)
    strategies = ["identity", "diagonal", "ekfac"]
    assert [s.strategy for s in specs if s.method == "kronfluence"] == strategies  # type: ignore[attr-defined]
