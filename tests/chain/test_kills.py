"""Runs that are killed, interrupted, or stopped by a fault: what is said, and what is kept."""

import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from chain.conftest import Study, new_study

pytestmark = pytest.mark.slow

FAULTY = """
import sys
from assets import recordings

def examine(self, audio, sha256=None):
    first, second = ()

recordings.Examiner.examine = examine
sys.argv = ["tda", "materialize", "base/autoencoder", "dataset/index"]
from tda_dagster.cli import main
main()
"""


def start(study: Study, *words: str) -> subprocess.Popen[str]:
    """A command, in a session of its own, whose output is kept."""
    return subprocess.Popen(
        study.command(*words),
        cwd=study.root,
        env=study.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(found: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def living_in(session: int) -> list[str]:
    """The commands of the living processes of a session."""
    listed = subprocess.run(
        ["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [args for sid, stat, args in rows if int(sid) == session and stat[0] != "Z"]


def runs(study: Study) -> Counter[str]:
    """How many runs Dagster has of each status."""
    database = study.root / "data" / "dagster" / "history" / "runs.db"
    with sqlite3.connect(database) as connection:
        return Counter(status for (status,) in connection.execute("SELECT status FROM runs"))


def rendered(study: Study) -> dict[str, object]:
    """The run of each rendered shard."""
    return {path: ref["run_id"] for path, ref in study.refs("dataset/manifest/shard").items()}


@pytest.fixture
def large(tmp_path: Path) -> Study:
    """A study whose rendering takes a while."""
    study = new_study(tmp_path / "large")
    params = yaml.safe_load((study.root / "params.yaml").read_text())
    params["dataset"]["reference"]["tracks"] = 48
    (study.root / "params.yaml").write_text(yaml.safe_dump(params))
    return study


def test_a_kill_while_rendering_loses_the_shards_in_flight_and_leaves_no_process(
    large: Study,
) -> None:
    process = start(large, "tda", "materialize", "dataset/manifest")
    wait_for(lambda: len(rendered(large)) >= 1, process)
    assert len(living_in(process.pid)) > 1
    process.kill()
    process.communicate(timeout=10)
    deadline = time.monotonic() + 2
    while (left := living_in(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    before = rendered(large)
    assert runs(large) == {"STARTED": 1}
    large.run("tda", "materialize", "dataset/manifest")
    after = rendered(large)
    assert before.items() <= after.items()
    assert len(after) > len(before)
    assert runs(large) == {"FAILURE": 1, "SUCCESS": 1}
    assert list((large.root / "data" / "store" / "tmp").iterdir()) == []


def test_a_signal_while_rendering_ends_the_run_soon(large: Study) -> None:
    process = start(large, "tda", "materialize", "dataset/manifest")
    wait_for(lambda: len(rendered(large)) >= 1, process)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - sent < 5
    assert process.returncode == 143
    assert said.splitlines()[-1].startswith("terminated: nothing computed is lost; ")
    assert "Traceback" not in said
    assert runs(large) == {"FAILURE": 1}


def test_a_signal_while_torch_computes_ends_the_run_soon(copy: Study) -> None:
    params = yaml.safe_load((copy.root / "params.yaml").read_text())
    params["noise"]["draws"] = 20_000
    (copy.root / "params.yaml").write_text(yaml.safe_dump(params))
    process = start(copy, "tda", "materialize", "base/losses")
    claims = copy.root / "data" / "store" / "claims"
    wait_for(lambda: len(list(claims.glob("*.json"))) > 1, process)  # the asset's and a shard's
    time.sleep(2)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - sent < 5
    assert process.returncode == 143, said
    assert said.splitlines()[-1].startswith("terminated: ")
    assert runs(copy)["STARTED"] == 0


def test_an_unexpected_error_names_asset_shard_and_file_in_one_line(copy: Study) -> None:
    params = yaml.safe_load((copy.root / "params.yaml").read_text())
    params["dataset"]["min_seconds"] = 0.9
    (copy.root / "params.yaml").write_text(yaml.safe_dump(params))
    done = copy.run("python", "-c", FAULTY, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.stderr.rstrip().endswith(line)
    assert re.match(r"error: dataset/index, shard \w+: an unexpected error stopped it", line)
    assert "not enough values to unpack" in line
    assert "ValueError" not in done.stderr
    log = re.search(r"data/log/\S+\.log", line)
    assert log is not None
    assert "ValueError: not enough values" in (copy.root / log[0]).read_text()
