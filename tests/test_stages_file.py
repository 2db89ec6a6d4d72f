"""`dvc.yaml`: which cohort it computes, which settings its stages know of, how it is changed."""

import shlex
from pathlib import Path

import pytest
import yaml

import assets  # noqa: F401  (declares them)
from tda_dagster.attribution.methods import METHODS, method_class
from tda_dagster.errors import TdaError
from tda_dagster.execution import _select
from tda_dagster.materialization import STUDY_ASSETS
from tda_dagster.partitions import declared_partitions
from tda_dagster.settings import Settings
from tda_dagster.stages_file import StagesFile
from tda_dagster.workspace import Workspace

SHIPPED = Path(__file__).parents[1] / "dvc.yaml"
STAGES = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))["stages"]


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "inputs"])
def test_a_stage_depends_on_every_section_that_its_assets_read(stage: str) -> None:
    names = _select(shlex.split(STAGES[stage]["cmd"])[2:])
    sections = {key.split(".")[0] for name in names for key in STUDY_ASSETS[name].settings}
    if any(STUDY_ASSETS[name].partitioned for name in names):
        fields = {f for name in METHODS for f in method_class(name).model_fields}
        sections |= (fields & set(Settings.model_fields)) | {"methods", "method_settings"}
    # The dataset comes as digests; what it is made of besides, and the model, as inputs.
    elsewhere = set(STAGES["inputs"]["params"]) if "dataset" not in stage else {"model"}
    assert sections - elsewhere <= set(STAGES[stage]["params"])
    assert set(STAGES[stage]["deps"]) >= {"data/inputs/assets", "data/inputs/version"}


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "inputs"])
def test_a_stage_depends_on_the_digests_of_what_its_assets_are_made_from(stage: str) -> None:
    names = _select(shlex.split(STAGES[stage]["cmd"])[2:])
    made_from = {n for name in names for n in _inputs(name) if not STUDY_ASSETS[n].on_request}
    groups = {name.split("/")[0] for name in made_from - set(names)}
    assert {f"data/digests/{group}.json" for group in groups} <= set(STAGES[stage]["deps"])


def _inputs(name: str) -> tuple[str, ...]:
    return (*STUDY_ASSETS[name].inputs, *STUDY_ASSETS[name].gathers)


def test_every_input_that_is_laid_out_is_one_that_a_stage_depends_on() -> None:
    laid = {path for out in STAGES["inputs"]["outs"] for path in out}
    used = {dep for stage in STAGES.values() for dep in stage.get("deps", [])}
    assert laid == {dep for dep in used if dep.startswith("data/inputs/")}


@pytest.mark.parametrize(
    ("command", "cohort"),
    [
        ("tda materialize cohort", "reference"),
        ("tda materialize cohort -c mine", "mine"),
        ("tda materialize --cohort mine cohort", "mine"),
        ("tda materialize --cohort=mine cohort", "mine"),
        ("python other.py -c theirs", "reference"),
    ],
)
def test_the_stages_compute_the_cohort_that_they_name(
    tmp_path: Path, command: str, cohort: str
) -> None:
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"one": {"cmd": command}}}))
    assert StagesFile(tmp_path).cohort == cohort
    assert StagesFile(tmp_path).names == (["one"] if command.startswith("tda ") else [])


def test_a_study_without_stages_has_the_usual_cohort(tmp_path: Path) -> None:
    assert StagesFile(tmp_path).cohort == "reference"
    assert StagesFile(tmp_path).names == []


@pytest.mark.parametrize("text", ["stages: [1", "- a list", "stages: 3", "stages: {a: 1}"])
def test_stages_that_cannot_be_read_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(TdaError, match=r"dvc\.yaml: its stages cannot be read"):
        _ = StagesFile(tmp_path).names


def test_running_the_inputs_every_time_changes_one_word(tmp_path: Path) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(text)
    StagesFile(tmp_path).run_inputs_always(True)
    changed = (tmp_path / "dvc.yaml").read_text()
    assert changed == text.replace("always_changed: false", "always_changed: true")
    assert yaml.safe_load(changed)["stages"]["inputs"]["always_changed"] is True
    StagesFile(tmp_path).run_inputs_always(False)
    assert (tmp_path / "dvc.yaml").read_text() == text


@pytest.mark.parametrize("first", ["reference", "zebra"])
def test_the_stages_cohort_is_the_first_that_is_listed(tmp_path: Path, first: str) -> None:
    (tmp_path / "params.yaml").write_text("")
    (tmp_path / "cohorts").mkdir()
    for name in ("another", "reference", "zebra"):
        (tmp_path / "cohorts" / f"{name}.yaml").write_text("queries: [{prompt: a tune}]")
    stages = {"stages": {"cohort": {"cmd": f"tda materialize cohort -c {first}"}}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(stages))
    listed = [partition.cohort for partition in declared_partitions(Workspace(tmp_path))]
    assert listed == [first, *sorted({"another", "reference", "zebra"} - {first})]
