"""The folder of a new study."""

from pathlib import Path

import pytest

from tda_dagster.corpus import read_manifest
from tda_dagster.errors import TdaError
from tda_dagster.partitions import declared_partitions
from tda_dagster.scaffold import MANIFEST_TEMPLATE, lay_out
from tda_dagster.stages_file import StagesFile
from tda_dagster.workspace import Workspace


def test_what_is_laid_out_is_a_study_with_one_cohort(tmp_path: Path) -> None:
    written = lay_out(tmp_path / "new")
    assert sorted(p for p in (tmp_path / "new").rglob("*") if p.is_file()) == sorted(written)
    workspace = Workspace(tmp_path / "new")
    assert workspace.cohorts() == ["reference"]
    assert {p.cohort for p in declared_partitions(workspace)} == {"reference"}
    assert StagesFile(workspace.root).names[0] == "inputs"


def test_the_manifest_template_is_a_manifest(tmp_path: Path) -> None:
    lay_out(tmp_path)
    read = read_manifest(str(tmp_path / MANIFEST_TEMPLATE))
    assert len(read.rows) == 2
    assert not read.rejects


def test_lines_of_a_gitignore_that_is_there_stay(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.wav\n/data/")
    lay_out(tmp_path)
    lines = (tmp_path / ".gitignore").read_text().splitlines()
    assert lines[:2] == ["*.wav", "/data/"]
    assert lines.count("/data/") == 1
    assert "/warehouse/*.duckdb*" in lines


@pytest.mark.parametrize("name", ["params.yaml", "cohorts/reference.yaml", MANIFEST_TEMPLATE])
def test_what_is_there_is_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(TdaError, match="exists already"):
        lay_out(tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / name]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TdaError, match="this is a file"):
        lay_out(tmp_path / "file")
