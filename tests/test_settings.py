"""Settings, cohorts and method specs: what may be said, and what a mistake is told."""

import time
from pathlib import Path

import pytest
import yaml

from tda_dagster.attribution.methods import METHODS, experiment_specs, method_specs, read_spec
from tda_dagster.attribution.methods.fim_unlearning import FimUnlearning
from tda_dagster.settings import Settings, SettingsError, load_settings, overridden
from tda_dagster.workspace import Query, Workspace

ROOT = Path(__file__).parents[1]


def write(folder: Path, **sections: object) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


def test_the_shipped_params_are_the_defaults() -> None:
    shipped = load_settings(ROOT / "params.yaml")
    assert shipped.model_copy(update={"experiments": {}}) == Settings()


def test_the_shipped_experiments_name_cohorts_and_methods_that_exist() -> None:
    workspace = Workspace(ROOT)
    for name, experiment in workspace.settings.experiments.items():
        assert set(experiment.cohorts) <= set(workspace.cohorts())
        assert experiment_specs(workspace.settings, name)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"noise": {"drawz": 1}}, r"noise\.drawz: unknown key; known here: draws, mode"),
        ({"nois": {}}, r"nois: unknown key; known here: compute, counterfactual, dataset"),
        ({"model": {"training": {"steps": 0}}}, r"model\.training\.steps: .*greater than 0"),
        ({"noise": {"mode": "loud"}}, r"noise\.mode: .*'shared' or 'per_segment'"),
        ({"noise": {"timestep_min": 0.9, "timestep_max": 0.1}}, r"timestep_min must be below"),
        ({"methods": []}, r"methods: "),
        ({"noise": None}, r"noise: must be a mapping of keys .got null"),
        ({"noise": {"draws": 10**30}}, r"noise\.draws: must lie between -2\^63 and 2\^63 - 1"),
        ({"unlearning": {"learning_rate": float("nan")}}, r"learning_rate: .*finite number"),
        ({"unlearning": {"damping": float("inf")}}, r"damping: .*finite number .got inf"),
        ({"fidelity": {"seed": -1}}, r"fidelity\.seed: .*greater than or equal to 0"),
        ({"experiments": {"a b": {"cohorts": ["c"]}}}, r"experiments\.a b.*should match pattern"),
        ({"dataset": {"manifest": ""}}, r"dataset\.manifest: "),
        ({"noise": {"\x1b[31m": 1}}, r"noise\.'\\x1b\[31m': unknown key"),
    ],
)
def test_mistakes_name_the_key(tmp_path: Path, sections: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        load_settings(write(tmp_path, **sections))


def test_a_mistake_of_any_size_is_told_in_one_line(tmp_path: Path) -> None:
    large = "x" * 1_000_000
    for sections in (
        {"noise": large},
        {"noise": {large: 1}},
        {"noise": {"draws": [large] * 2}},
        {"methods": [{}] * 5_000},
        {"dataset": {"taken_down": {large: large}}},
    ):
        with pytest.raises(SettingsError) as caught:
            load_settings(write(tmp_path, **sections))
        assert len(str(caught.value)) < 2_000
        assert "\n" not in str(caught.value)


def test_an_override_of_a_section_without_keys(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, noise=None), {"noise.draws": 3}).noise.draws == 3
    with pytest.raises(SettingsError, match="'noise' has no keys of its own, it is 5"):
        load_settings(write(tmp_path, noise=5), {"noise.draws": 3})


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no settings here"):
        load_settings(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(SettingsError, match="not valid YAML"):
        load_settings(tmp_path / "params.yaml")


def test_overrides_replace_single_keys(tmp_path: Path) -> None:
    path = write(tmp_path, unlearning={"steps": 1, "draws": 8})
    settings = load_settings(path, {"unlearning.steps": 3})
    assert (settings.unlearning.steps, settings.unlearning.draws) == (3, 8)
    with pytest.raises(SettingsError, match=r"unlearning\.stepz"):
        load_settings(path, {"unlearning.stepz": 3})


def test_a_method_spec_is_named_by_all_its_settings() -> None:
    (spec,) = method_specs(Settings())
    assert spec.method_id.startswith("fim-unlearning-transformer-1step-")
    (other,) = method_specs(Settings.model_validate({"unlearning": {"damping": 0.2}}))
    assert other.method_id != spec.method_id
    assert read_spec(spec.model_dump_json()) == spec


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_found_under_its_name_and_read_back(name: str) -> None:
    (spec,) = method_specs(Settings(methods=(name,)))
    assert spec.method == name
    assert spec.method_id.startswith(name.replace("_", "-"))
    assert read_spec(spec.model_dump_json()) == spec
    assert spec.label


def test_a_method_takes_its_fields_from_the_sections_of_the_same_names() -> None:
    raw = {
        "methods": ["mucs"],
        "noise": {"draws": 5},
        "scoring": {"mask_padding": True},
        "method_settings": {"mucs": {"scoring": {"score": "skew"}, "bound": 0.5}},
    }
    (spec,) = method_specs(Settings.model_validate(raw))
    dumped = spec.model_dump()
    assert dumped["noise"]["draws"] == 5
    assert dumped["scoring"] == {"score": "skew", "mask_padding": True, "timestep_min": 0.0}
    assert dumped["bound"] == 0.5


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"methods": ["magic"]}, r"methods: 'magic' is not an attribution method; there are: fim"),
        ({"methods": ["mucs"], "method_settings": {"mucs": {"boundd": 1}}}, r"mucs: boundd"),
    ],
)
def test_a_mistake_about_a_method_is_named(raw: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        method_specs(Settings.model_validate(raw))


def experiment(**keys: object) -> Settings:
    return Settings.model_validate({"experiments": {"try": {"cohorts": ["reference"], **keys}}})


def test_the_grid_is_the_union_of_the_products_of_its_blocks() -> None:
    settings = experiment(
        settings={"sweep.draws": 3},
        grid=[
            {"unlearning.steps": [1, 2], "scoring.mask_padding": [False, True]},
            {"unlearning.damping": [0.1, 1.0]},
        ],
    )
    found = [
        (
            spec.unlearning.steps,
            spec.scoring.mask_padding,
            spec.unlearning.damping,
            spec.sweep.draws,
        )
        for spec in experiment_specs(settings, "try")
        if isinstance(spec, FimUnlearning)
    ]
    # (1, False, 0.1) is in both blocks and appears once.
    assert found == [
        (1, False, 0.1, 3),
        (1, True, 0.1, 3),
        (2, False, 0.1, 3),
        (2, True, 0.1, 3),
        (1, False, 1.0, 3),
    ]


def test_a_method_that_knows_nothing_of_an_axis_appears_once() -> None:
    settings = experiment(methods=["random"], grid=[{"unlearning.steps": [1, 2, 3]}])
    assert len(experiment_specs(settings, "try")) == 1


def test_a_mistake_in_an_experiment_is_named() -> None:
    settings = experiment(grid=[{"unlearning.stepz": [1]}])
    with pytest.raises(SettingsError, match=r"experiments\.try: unlearning\.stepz: unknown key"):
        experiment_specs(settings, "try")
    with pytest.raises(SettingsError, match="no experiment 'other'; there are: try"):
        experiment_specs(settings, "other")


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        (
            [{f"k{axis}": list(range(10)) for axis in range(9)}],
            r"grid are 1 × 1 × 1,000,000,000 = 1,000,000,000 runs; at most 10,000",
        ),
        (
            [{f"k{axis}": list(range(10)) for axis in range(5_000)}],
            r"about 10\^5000 runs",
        ),
        (
            [{"noise.seed": list(range(6_000))}, {"noise.draws": list(range(1, 6_000))}],
            "= 11,999 runs",
        ),
        ([{"noise.seed": []}], r"experiments\.try\.grid: 'noise\.seed' has no values"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_it_is_combined(
    grid: list[dict[str, object]], told: str
) -> None:
    settings = experiment(grid=grid)
    started = time.monotonic()
    with pytest.raises(SettingsError, match=told):
        experiment_specs(settings, "try")
    assert time.monotonic() - started < 1


def test_queries_are_appended_and_read_back(tmp_path: Path) -> None:
    write(tmp_path)
    workspace = Workspace(tmp_path)
    workspace.add_queries("mine", [Query(prompt='a "quoted" – prompt: yes', seed=3)])
    workspace.add_queries("mine", [Query(segment="t:0000")])
    first, second = workspace.cohort("mine").queries
    assert (first.prompt, first.seed, first.kind) == ('a "quoted" – prompt: yes', 3, "generated")
    assert second.kind == "segment"
    assert workspace.cohorts() == ["mine"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("queries: []", "either queries .at least one. or targets"),
        ("{queries: [{prompt: a}], targets: {count: 2}}", "either queries"),
        ("targets: {count: 0}", r"targets\.count: .*greater than 0"),
        ("queries: [{prompt: a, audio: b}]", "exactly one of prompt, audio and segment"),
        ("queries: [{prompt: a, sed: 1}]", r"queries\.0\.sed: unknown key"),
        ("queries: {", "not valid YAML"),
    ],
)
def test_a_broken_cohort_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "cohorts").mkdir()
    (tmp_path / "cohorts" / "broken.yaml").write_text(text)
    with pytest.raises(SettingsError, match=told):
        Workspace(tmp_path).cohort("broken")


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "a|b"])
def test_a_cohort_cannot_be_called_anything(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="a name is letters"):
        Workspace(tmp_path).add_queries(name, [Query(prompt="p")])


def test_overrides_are_not_changed_by_those_that_go_into_them() -> None:
    changes = {"method_settings": {}, "method_settings.mucs": {"bound": 0.5}}
    assert overridden(Settings(), changes, "test").method_settings == {"mucs": {"bound": 0.5}}
    assert changes["method_settings"] == {}


def test_counterfactual_settings_may_differ_for_a_cohort(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("counterfactual: {subsets: 64, of_cohort: {fresh: {subsets: 32, seed: 9}}}\n")
    settings = load_settings(path).counterfactual
    assert (settings.of("fresh").subsets, settings.of("fresh").seed) == (32, 9)
    assert settings.of("fresh").draws == settings.draws
    assert settings.of("generated") is settings


def test_a_mistake_in_what_differs_for_a_cohort_is_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("counterfactual: {of_cohort: {fresh: {subset: 32}}}\n")
    with pytest.raises(SettingsError, match=r"of_cohort\.fresh: subset: unknown key"):
        load_settings(path)
