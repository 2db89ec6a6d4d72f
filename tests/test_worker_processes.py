"""Worker processes compute beside their parent and end with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tda_dagster.faults import Fault, about
from tda_dagster.worker_processes import worker_processes

PARENT = """
import os, sys, time
from concurrent.futures import ThreadPoolExecutor
from tda_dagster.worker_processes import worker_processes

if __name__ == "__main__":
    with worker_processes(2) as processes, ThreadPoolExecutor(2) as threads:
        print(*threads.map(lambda _: processes.call(os.getpid), range(2)), flush=True)
        list(threads.map(lambda _: processes.call(time.sleep, 60), range(2)))
"""


def children(parent: int) -> set[int]:
    """The processes whose parent it is."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.add(int(stat.parent.name))
        except OSError:
            continue
    return found


def living(processes: set[int]) -> set[int]:
    def lives(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return {pid for pid in processes if lives(pid)}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_no_worker_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        told = set(map(int, process.stdout.readline().split()))
        workers = children(process.pid)
        assert told <= workers
        time.sleep(0.5)
        assert living(workers) == workers
        process.kill()
    deadline = time.monotonic() + 2
    while living(workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert living(workers) == set()


def divide(number: int) -> float:
    with about(f"number {number}"):
        return 1 / number


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_errors_and_the_death_of_a_worker_reach_the_caller() -> None:
    with worker_processes(1) as processes:
        assert processes.call(divide, 4) == 0.25
        with pytest.raises(ZeroDivisionError) as caught:
            processes.call(divide, 0)
        assert caught.value.__notes__ == ["number 0"]
        with pytest.raises(Fault, match=r"a worker process was killed.*compute\.workers"):
            processes.call(kill_oneself)
