"""Catalogue methods: what is unlearned, what the rises are, and what they cost."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tda_dagster.attribution.groups import GroupError, merged
from tda_dagster.attribution.methods import JointScoringSpec, Material, method_class
from tda_dagster.attribution.methods.catalogue import CatalogueSpec
from tda_dagster.attribution.methods.tasks import GroupAscent, GroupUnlearning
from tda_dagster.attribution.sweep import sweep
from tda_dagster.attribution.unlearning import Unlearned, unlearn
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.settings import Settings, overridden

pytestmark = pytest.mark.usefixtures("untouched")

METHODS = ("catalogue_unlearning", "catalogue_mucs")
DRAWS = 5
GROUPS = {"Ada": [0, 3], "Bo": [1, 2, 4], "Cy": [5, 6]}


def spec_of(method: str, **own: object) -> CatalogueSpec:
    ascent = {"max_steps": 2, "bound": 100.0, "batch_size": 2, "draws": 2}
    changes: dict[str, object] = {"unlearning": {"draws": 2, "learning_rate": 1e-3}}
    if method == "catalogue_mucs":
        changes = {"ascent": ascent, "criterion_segments": 2}
    changes |= {"noise": {"draws": DRAWS}, **own}
    found = method_class(method).of(Settings(method_settings={method: changes}))
    assert isinstance(found, CatalogueSpec)
    return found


def unlearned(spec: CatalogueSpec, study: Material, places: list[int], folder: str) -> Unlearned:
    path = study.folder / folder  # type: ignore[attr-defined]
    spec.unlearning_task().run(study, study.train.take(places), None, path)
    return Unlearned.load(path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("score", "mask"), [("difference", False), ("skew", True)])
def test_scores_are_the_paired_rises_of_the_queries_under_each_unlearned_group(
    method: str, score: str, mask: bool, study: Material, model: MusicModel, queries: LatentSegments
) -> None:
    spec = spec_of(method, scoring={"score": score, "mask_padding": mask, "timestep_min": 0.3})
    samples = spec.samples(study, queries)
    plan = NoisePlan(**{**spec.noise.model_dump()})
    kept = plan.timesteps().numpy() >= 0.3
    assert samples.shape == (kept.sum(), len(queries), len(study.train))
    column = "loss_valid" if mask else "loss"

    def losses(delta: dict[str, Tensor]) -> np.ndarray:
        found = sweep(model, queries, plan, delta)[column].to_numpy()
        return found.reshape(len(queries), DRAWS)[:, kept]

    before = losses({})
    for name, places in GROUPS.items():
        after = losses(unlearned(spec, study, places, f"{spec.method_id}-{name}").delta)
        rise = after - before if score == "difference" else (after - before) / (after + before)
        for place in places:
            found = samples[:, :, place].numpy().T * len(places)
            np.testing.assert_allclose(found, rise, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(spec.score(study, queries), samples.mean(dim=0))


def test_scores_say_that_they_are_effects_of_groups() -> None:
    assert all(method_class(name).groups for name in METHODS)
    assert not method_class("fim_unlearning").groups


def test_a_group_is_unlearned_along_the_sum_of_the_gradients_of_its_segments(
    study: Material, model: MusicModel
) -> None:
    spec = spec_of("catalogue_unlearning")
    task = spec.unlearning_task()
    assert isinstance(task, GroupUnlearning)
    options = dict(task.unlearning)
    together = unlearned(spec, study, GROUPS["Bo"], "together").delta
    apart = [
        unlearn(model, study.train.take([place]), study.fisher, **options).delta
        for place in GROUPS["Bo"]
    ]
    for name, change in together.items():
        expected = torch.stack([delta[name] for delta in apart]).sum(dim=0)
        torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-6 * float(change.norm()))


def test_bounded_ascent_retains_the_other_groups_and_forgets_its_own(
    study: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The model of this test is untrained, and what it loses is the null loss already.
    monkeypatch.setattr(GroupAscent, "_null_loss", lambda *_: 100.0)
    plan = NoisePlan(draws=8, seed=99)

    def rises(weight: float) -> tuple[float, float]:
        """How far the losses of the group and of the others rise."""
        ascent = {"max_steps": 10, "bound": 100.0, "learning_rate": 2e-3, "ascent_weight": weight}
        spec = spec_of("catalogue_mucs", ascent=ascent | {"batch_size": 5, "draws": 2})
        assert isinstance(spec.unlearning_task(), GroupAscent)
        delta = unlearned(spec, study, GROUPS["Cy"], f"ascent-{weight}").delta
        found = []
        for places in (GROUPS["Cy"], GROUPS["Ada"] + GROUPS["Bo"]):
            segments = study.train.take(places)
            after, before = (
                sweep(study.model, segments, plan, change)["loss_valid"].to_numpy().mean()
                for change in (delta, {})
            )
            found.append(float(after - before))
        return found[0], found[1]

    group, others = rises(0.3)
    assert group > others
    assert others < 0  # what is retained is trained on, and this model was untrained
    retained_only, _ = rises(1e-9)
    assert group > retained_only


def test_a_second_set_of_queries_unlearns_nothing(
    study: Material, make_segments: Callable[..., LatentSegments]
) -> None:
    spec = spec_of("catalogue_unlearning", unlearning={"draws": 3})
    ran: list[str] = study.ran  # type: ignore[attr-defined]
    ran.clear()
    spec.score(study, make_segments(2, seed=10))
    assert sorted(ran) == sorted(
        [f"group|{name}" for name in GROUPS] + [f"queries|{name}" for name in ["θ₀", *GROUPS]]
    )
    ran.clear()
    spec.score(study, make_segments(3, seed=11))
    assert ran
    assert all(name.startswith("queries|") for name in ran)


def test_of_many_groups_the_best_coarse_ones_of_each_query_are_refined(
    study: Material, queries: LatentSegments
) -> None:
    groups = study.groups("rightsholder")
    coarse = merged(groups, 2)
    assert coarse == {"coarse-000": ("Bo",), "coarse-001": ("Ada", "Cy")}
    every = spec_of("catalogue_unlearning").samples(study, queries)
    merged_only = spec_of("catalogue_unlearning", max_groups=2, refined=2)
    found = merged_only.samples(study, queries)
    torch.testing.assert_close(found, every)  # both coarse groups are refined

    found = spec_of("catalogue_unlearning", max_groups=2, refined=1).samples(study, queries)
    both = GROUPS["Ada"] + GROUPS["Cy"]
    for row in range(len(queries)):
        effects = {
            "coarse-000": float(every[:, row, GROUPS["Bo"]].mean(dim=0).sum()),
            "coarse-001": None,
        }
        torch.testing.assert_close(found[:, row, GROUPS["Bo"]], every[:, row, GROUPS["Bo"]])
        alone = found[:, row, both]
        if torch.allclose(alone, every[:, row, both]):
            assert not torch.allclose(alone, alone[:, :1].expand_as(alone))
        else:
            assert torch.equal(alone, alone[:, :1].expand_as(alone))
            effects["coarse-001"] = float(alone.mean(dim=0).sum())
            assert effects["coarse-000"] > effects["coarse-001"]


def test_a_single_group_is_an_error_that_names_the_setting(
    study: Material, queries: LatentSegments
) -> None:
    with pytest.raises(GroupError, match=r"^group: all training segments have the same split"):
        spec_of("catalogue_unlearning", group="split").score(study, queries)


def test_a_timestep_that_leaves_no_draw_is_named(study: Material, queries: LatentSegments) -> None:
    spec = spec_of("catalogue_unlearning", scoring={"timestep_min": 0.9999})
    with pytest.raises(GroupError, match=r"^scoring\.timestep_min: 0\.9999 leaves no draw"):
        spec.score(study, queries)


def test_settings_are_those_of_the_sections() -> None:
    settings = overridden(Settings(), {"unlearning.damping": 0.7}, "test")
    spec = method_class("catalogue_unlearning").of(settings)
    assert isinstance(spec, JointScoringSpec)
    assert spec.model_dump()["unlearning"]["damping"] == 0.7
    assert spec.method_id.startswith("catalogue-unlearning-rightsholder-")


def test_the_forecast_counts_gradients_of_segments_and_sweeps_of_queries() -> None:
    sizes = [3, 1, 2, 4]
    spec = spec_of("catalogue_unlearning", unlearning={"draws": 8, "steps": 2})
    assert spec.forwards(7, 10, lambda _: sizes) == 3 * 2 * 8 * 10 + 7 * (4 + 1) * DRAWS
    few = spec_of("catalogue_unlearning", max_groups=2, refined=1, unlearning={"draws": 8})
    assert few.forwards(7, 10, lambda _: sizes) == 3 * 8 * 10 + 7 * (2 + 2 + 1) * DRAWS
    mucs = spec_of("catalogue_mucs")  # 2 steps of batches of 2, each with a look at 2 segments
    assert mucs.forwards(0, 10, lambda _: sizes) == 4 * 2 * (3 * (2 + 2) + 2)
