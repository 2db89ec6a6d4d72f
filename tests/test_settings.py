"""Settings, cohorts and method specs: what may be said, and what a mistake is told."""

from pathlib import Path

import pytest
import yaml

from tda_dagster.settings import MethodSpec, Settings, SettingsError, load_settings
from tda_dagster.workspace import Query, Workspace

ROOT = Path(__file__).parents[1]


def write(folder: Path, **sections: object) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


def test_the_shipped_params_are_the_defaults() -> None:
    assert load_settings(ROOT / "params.yaml") == Settings()


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"noise": {"drawz": 1}}, r"noise\.drawz: unknown key; known here: draws, mode"),
        ({"nois": {}}, r"nois: unknown key; known here: dataset, fisher"),
        ({"model": {"training": {"steps": 0}}}, r"model\.training\.steps: .*greater than 0"),
        ({"noise": {"mode": "loud"}}, r"noise\.mode: .*'shared' or 'per_segment'"),
        ({"noise": {"timestep_min": 0.9, "timestep_max": 0.1}}, r"timestep_min must be below"),
        ({"methods": []}, r"methods: "),
    ],
)
def test_mistakes_name_the_key(tmp_path: Path, sections: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        load_settings(write(tmp_path, **sections))


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
    (spec,) = Settings().method_specs()
    assert spec.method_id.startswith("fim-unlearning-transformer-1step-")
    other = Settings.model_validate({"unlearning": {"damping": 0.2}}).method_specs()[0]
    assert other.method_id != spec.method_id
    assert MethodSpec.model_validate_json(spec.model_dump_json()) == spec


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
        ("queries: []", r"broken\.yaml: queries"),
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
