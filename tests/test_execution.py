"""Opening a workspace's Dagster instance."""

import subprocess
import sys
from pathlib import Path

import pytest

from tda_dagster.errors import TdaError
from tda_dagster.execution import instance
from tda_dagster.workspace import Workspace

OPEN = """
import sys
from pathlib import Path
from tda_dagster.execution import instance
from tda_dagster.workspace import Workspace
print("ready", flush=True)
sys.stdin.readline()
with instance(Workspace(Path(sys.argv[1]))) as dagster:
    dagster.add_dynamic_partitions("cohort", [sys.argv[2]])
"""


@pytest.mark.slow
def test_processes_that_open_a_new_home_at_once_all_find_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(tmp_path), f"part{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    with instance(Workspace(tmp_path)) as dagster:
        assert set(dagster.get_dynamic_partitions("cohort")) == {f"part{n}" for n in range(4)}


def test_a_home_that_is_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "nowhere"))
    with (
        pytest.raises(TdaError, match=r"DAGSTER_HOME is '.*nowhere', which is no folder"),
        instance(Workspace(tmp_path)),
    ):
        pass


@pytest.mark.parametrize(
    ("home", "words"),
    [
        ("data/dagster", r"a relative path; set it to an absolute one, such as '/.*data/dagster'"),
        ("{folder}/file", "which is no folder"),
        ("{folder}/file/below", "which is no folder"),
    ],
)
def test_a_home_that_cannot_be_one_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str, words: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "data" / "dagster").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", home.format(folder=tmp_path))
    with (
        pytest.raises(TdaError, match=rf"DAGSTER_HOME is '.*{words}") as caught,
        instance(Workspace(tmp_path)),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_home_that_cannot_be_made_or_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    (tmp_path / "data").write_text("a file")
    with (
        pytest.raises(TdaError, match=r"data: it is a file where a folder should be"),
        instance(Workspace(tmp_path)),
    ):
        pass
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "history").write_text("a file")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with (
        pytest.raises(TdaError, match=r"home cannot be used: .*history: it is a file"),
        instance(Workspace(tmp_path)),
    ):
        pass
