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
