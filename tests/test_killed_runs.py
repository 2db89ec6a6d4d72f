"""After a kill, the next start finds Dagster's run storage true and the workspace tidy."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from tda_dagster.execution import instance
from tda_dagster.killed_runs import process_tags
from tda_dagster.leftovers import remove_leftovers
from tda_dagster.workspace import Workspace

HOLDS = """
import sys, time
from pathlib import Path
from tda_dagster.store.staging import Staging
from tda_dagster.killed_runs import process_tags
from tda_dagster.execution import instance
from tda_dagster.workspace import Workspace
from warehouse.build import building
from dagster import DagsterRun, DagsterRunStatus

workspace = Workspace(Path(sys.argv[1]))
with instance(workspace) as dagster:
    run = DagsterRun("job", status=DagsterRunStatus.STARTED, tags=process_tags())
    dagster.add_run(run)
    with building(workspace.database).folder(), Staging(workspace.cache / "tmp").folder():
        print(run.run_id, flush=True)
        time.sleep(600)
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    (tmp_path / "params.yaml").write_text("store: {root: data/store}\n")
    return Workspace(tmp_path)


def status(dagster: DagsterInstance, run_id: str) -> DagsterRunStatus:
    run = dagster.get_run_by_id(run_id)
    assert run is not None
    return run.status


def working(workspace: Workspace) -> int:
    """How many build folders there are."""
    return len(
        [
            *(workspace.database.parent / ".build").glob("*"),
            *(workspace.cache / "tmp").glob("*"),
        ]
    )


def test_what_a_killed_process_leaves_is_put_right_and_what_a_living_one_has_is_let_be(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", HOLDS, str(workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        with instance(workspace) as dagster:
            assert status(dagster, run_id) is DagsterRunStatus.STARTED
            assert working(workspace) == 2
        process.send_signal(signal.SIGKILL)
    monkeypatch.delenv("DAGSTER_HOME")
    with instance(workspace) as dagster:
        assert status(dagster, run_id) is DagsterRunStatus.FAILURE
    assert working(workspace) == 0


@pytest.mark.parametrize(
    ("changes", "after"),
    [
        ({}, DagsterRunStatus.STARTED),  # this process lives
        ({"tda/process_started": "1"}, DagsterRunStatus.FAILURE),  # its id was used before
        ({"tda/machine": "another", "tda/pid": "999999999"}, DagsterRunStatus.STARTED),
        ({"tda/pid": "999999999"}, DagsterRunStatus.FAILURE),
        ({"tda/pid": "none"}, DagsterRunStatus.STARTED),
        ({"tda/pid": "9" * 30}, DagsterRunStatus.STARTED),
    ],
)
def test_only_runs_whose_process_is_known_to_be_gone_are_marked(
    workspace: Workspace, changes: dict[str, str], after: DagsterRunStatus
) -> None:
    with instance(workspace) as dagster:
        run = DagsterRun("job", status=DagsterRunStatus.STARTED, tags=process_tags() | changes)
        dagster.add_run(run)
        finished = DagsterRun(
            "job", status=DagsterRunStatus.SUCCESS, tags={**process_tags(), "tda/pid": "999999999"}
        )
        dagster.add_run(finished)
    with instance(workspace) as dagster:
        assert status(dagster, run.run_id) is after
        assert status(dagster, finished.run_id) is DagsterRunStatus.SUCCESS


def test_a_restart_of_the_machine_ends_its_runs(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tda_dagster import killed_runs

    def boots(boot: str) -> None:
        monkeypatch.setattr(killed_runs, "_boot", lambda: boot)
        monkeypatch.setattr(killed_runs, "this_machine", lambda: f"node {boot}")

    runs = {}
    with instance(workspace) as dagster:
        for boot in ("here 1", "elsewhere 1", ""):
            boots(boot)
            tags = process_tags() | {"tda/machine": f"node {boot}"}
            run = DagsterRun("job", status=DagsterRunStatus.STARTED, tags=tags)
            runs[boot] = dagster.add_run(run).run_id
    boots("here 2")
    with instance(workspace) as dagster:
        found = {boot: status(dagster, run_id) for boot, run_id in runs.items()}
    assert found == {
        "here 1": DagsterRunStatus.FAILURE,
        "elsewhere 1": DagsterRunStatus.STARTED,
        "": DagsterRunStatus.STARTED,
    }


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_temporary_homes_of_dagster_go_when_nobody_uses_them(workspace: Workspace) -> None:
    homes = [
        workspace.root / f".tmp_dagster_home_{name}" for name in ("dead", "open", "told", "new")
    ]
    for home in homes:
        (home / "history").mkdir(parents=True)
        (home / "history" / "runs.db").touch()
        if home != homes[3]:
            os.utime(home, (time.time() - 60, time.time() - 60))
    told = {**os.environ, "DAGSTER_HOME": str(homes[2])}
    with (
        (homes[1] / "history" / "runs.db").open("rb"),
        subprocess.Popen(["sleep", "60"], env=told) as sleeper,
    ):
        time.sleep(0.2)
        remove_leftovers(workspace)
        sleeper.kill()
    assert [home.exists() for home in homes] == [False, True, True, True]
