"""Runs whose process was killed: Dagster's run storage still calls them started.

What belongs here: tagging a run with the process that executes it, and marking runs as failed whose
process no longer exists.
"""

from collections.abc import Mapping

import dagster as dg
from dagster import DagsterRunStatus

from tda_dagster.processes import Process, this_process

_PID, _STARTED, _MACHINE = "tda/pid", "tda/process_started", "tda/machine"
_UNFINISHED = (
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)


def process_tags() -> dict[str, str]:
    """The tags of a run that this process executes."""
    process = this_process()
    return {_PID: str(process.pid), _STARTED: process.started, _MACHINE: process.machine}


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
        process = _process(run.tags)
        if process is not None and process.has_ended():
            instance.report_run_failed(
                run, f"The process {process.pid} that executed this run was killed."
            )
            marked.append(run.run_id)
    return marked


def _process(tags: Mapping[str, str]) -> Process | None:
    pid = tags.get(_PID, "")
    if not pid.isdecimal():
        return None
    return Process(tags.get(_MACHINE, ""), int(pid), tags.get(_STARTED, ""))
