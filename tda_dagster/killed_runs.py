"""Runs whose process was killed: Dagster's run storage still calls them started.

What belongs here: tagging a run with the process that executes it, and marking runs as failed whose
process no longer exists.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import dagster as dg
from dagster import DagsterRunStatus

from tda_dagster.store.processes import Process, has_ended, this_machine, this_process

_PID, _STARTED, _MACHINE, _BOOT = "tda/pid", "tda/process_started", "tda/machine", "tda/boot"
_UNFINISHED = (
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)


def process_tags() -> dict[str, str]:
    """The tags of a run that this process executes."""
    process = this_process()
    return {
        _PID: str(process.pid),
        _STARTED: process.started,
        _MACHINE: process.machine,
        _BOOT: _boot(),
    }


def tag_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Tag a run with this process, for runs that another program, such as the UI, has launched."""
    tags = process_tags()
    if any(run.tags.get(key) != value for key, value in tags.items()):
        instance.add_run_tags(run.run_id, tags)


def mark_killed_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark as failed the unfinished runs whose process on this machine has ended; returns their
    ids. Runs of other machines, and those without tags, are left alone."""
    unfinished = dg.RunsFilter(statuses=list(_UNFINISHED))
    marked = []
    for run in instance.get_runs(unfinished):
        if _was_killed(run.tags):
            instance.report_run_failed(
                run, f"The process {run.tags[_PID]} that executed this run was killed."
            )
            marked.append(run.run_id)
    return marked


def _was_killed(tags: Mapping[str, str]) -> bool:
    pid = tags.get(_PID, "")
    if not pid.isdecimal() or len(pid) > 9:  # no process id
        return False
    here, boot = this_machine(), tags.get(_BOOT, "")
    process = Process(tags.get(_MACHINE, ""), int(pid), tags.get(_STARTED, ""))
    return has_ended(process, here) or _restarted_since(boot)


def _boot() -> str:
    """The machine's id and that of its last start; "" where the system does not tell both, as in
    most containers."""
    with suppress(OSError):
        machine = Path("/etc/machine-id").read_text().strip()
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{machine} {start}" if machine else ""
    return ""


def _restarted_since(boot: str) -> bool:
    """Whether this machine has been started again since `boot`."""
    then, now = boot.split(), _boot().split()
    return len(then) == len(now) == 2 and then[0] == now[0] and then[1] != now[1]
