"""Telling DVC of a run: only what was computed under what it sees."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tda_dagster.dvc_stages import RunRecord
from tda_dagster.workspace import Workspace

OUTPUT = "data/digests/dataset.json"


@pytest.fixture
def study(tmp_path: Path) -> Workspace:
    """A study of one stage, with its output there, in a repository of git and DVC."""
    (tmp_path / "cohorts").mkdir()
    (tmp_path / "cohorts" / "reference.yaml").write_text("queries: [{prompt: a tune}]")
    (tmp_path / "params.yaml").write_text("dataset: {seed: 1}")
    stage = {"cmd": "tda materialize dataset", "params": ["dataset"], "outs": [OUTPUT]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"dataset": stage}}))
    (tmp_path / "data" / "digests").mkdir(parents=True)
    (tmp_path / OUTPUT).write_text("{}\n")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    return Workspace(tmp_path)


def test_a_run_is_recorded(study: Workspace) -> None:
    assert RunRecord(study).commit() is None
    lock = yaml.safe_load((study.root / "dvc.lock").read_text())
    assert lock["stages"]["dataset"]["params"] == {"params.yaml": {"dataset": {"seed": 1}}}


@pytest.mark.parametrize("name", ["params.yaml", "cohorts/reference.yaml"])
def test_what_was_changed_during_the_run_is_not_taken_for_its_cause(
    study: Workspace, name: str
) -> None:
    record = RunRecord(study)
    path = study.root / name
    path.write_text(path.read_text() + "\n")
    assert record.commit() == "settings or cohort were changed during the run"
    assert not (study.root / "dvc.lock").exists()


def test_why_dvc_cannot_be_told_is_said_in_a_line(study: Workspace) -> None:
    (study.root / OUTPUT).unlink()
    said = RunRecord(study).commit()
    assert said is not None
    assert OUTPUT in said
    assert "\n" not in said


def test_a_study_that_is_not_dvcs_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("")
    (tmp_path / "dvc.yaml").write_text("stages: {dataset: {cmd: tda materialize dataset}}")
    assert RunRecord(Workspace(tmp_path)).commit() is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dvc.yaml", "params.yaml"]
