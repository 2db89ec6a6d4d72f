"""Running the asset graph from the command line, in this process, recorded in Dagster.

What belongs here: what `tda run`, `tda materialize` and DVC share. The browser's runs take the
same assets through the same definitions.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from rich.console import Console

from tda_dagster.errors import TdaError
from tda_dagster.materialization import STUDY_ASSETS
from tda_dagster.partitions import Partition, register
from tda_dagster.progress import shown_on
from tda_dagster.workspace import WORKSPACE_VARIABLE, Workspace

_DAGSTER_YAML = """telemetry:
  enabled: false
nux:
  enabled: false
"""

# Dagster's own capture points the terminal's descriptors at files and prints these from another
# process, which tears the bars apart. What a command prints belongs to its terminal.
_NO_CAPTURE = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
}


class RunFailed(TdaError):
    """A run that did not reach its end."""


def prepare_home(workspace: Workspace) -> Path:
    """Make the workspace's Dagster home; returns its path."""
    home = workspace.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    with _alone_in(home):
        config = home / "dagster.yaml"
        if not config.exists():
            config.write_text(_DAGSTER_YAML, encoding="utf-8")
    return home


@contextmanager
def instance(workspace: Workspace) -> Iterator[dg.DagsterInstance]:
    """The workspace's Dagster instance; a DAGSTER_HOME in the environment has precedence.

    Raises TdaError when that names no folder.
    """
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(prepare_home(workspace))))
    if not home.is_dir():
        raise TdaError(f"DAGSTER_HOME is {str(home)!r}, which is no folder; make it, or unset it")
    with _alone_in(home):  # Dagster makes the tables of a new home, and fails if others do so too
        found = dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=_NO_CAPTURE))
    with found:
        yield found


@contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """Until the `with` block ends, processes of this machine that ask for the same folder wait."""
    lock = os.open(home, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network filesystems have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def materialize(
    workspace: Workspace,
    partitions: Sequence[Partition],
    *,
    names: Sequence[str] | None,
    console: Console,
    choose: Callable[[Sequence[Partition]], Sequence[Partition]] = lambda partitions: partitions,
) -> None:
    """Materialise asset groups and assets by name for some partitions; None names all but those
    that are made on request only. So does a group's name, unless it has no others.

    What all partitions share comes first, then each partition, then what gathers them; when the
    shared part is done, `choose` says which of the partitions are to be run. In the end Dagster
    is told of what else is live. Raises the error of the first asset that failed, or RunFailed
    naming the check that did.
    """
    os.environ[WORKSPACE_VARIABLE] = str(workspace.root)
    from tda_dagster.definitions import defs  # reads the workspace
    from tda_dagster.reconcile import reconcile

    shared, partitioned, gathered = _phases(_select(names))
    with instance(workspace) as dagster:
        register(dagster, workspace, partitions)
        _run(defs, dagster, None, shared, console)
        chosen = choose(partitions) if partitioned else ()
        for number, partition in enumerate(chosen):
            if len(chosen) > 1:
                console.print(
                    f"[dim]{number + 1}/{len(chosen)}[/dim] {partition.cohort} by "
                    f"{partition.method.label} [dim]{partition.method.method_id}[/dim]",
                    highlight=False,
                )
            _run(defs, dagster, partition, partitioned, console)
        _run(defs, dagster, None, gathered, console)
        reconcile(workspace, dagster)


def _select(names: Sequence[str] | None) -> list[str]:
    """The assets that the names ask for, in the order of the data flow."""
    if names is None:
        return [name for name, declared in STUDY_ASSETS.items() if not declared.on_request]
    known = {name.split("/")[0] for name in STUDY_ASSETS} | set(STUDY_ASSETS)
    unknown = set(names) - known
    if unknown:
        raise TdaError(
            f"{sorted(unknown)[0]!r} is neither an asset group nor an asset; there are: "
            f"{', '.join(sorted(known))}"
        )
    groups: dict[str, list[str]] = {}
    for name in STUDY_ASSETS:
        groups.setdefault(name.split("/")[0], []).append(name)
    asked_for = set(names)
    for group in asked_for & set(groups):
        default = [name for name in groups[group] if not STUDY_ASSETS[name].on_request]
        asked_for |= set(default or groups[group])
    return [name for name in STUDY_ASSETS if name in asked_for]


def _phases(selected: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The selected assets: those all partitions share, the partitioned, those that gather them."""

    def gathers(name: str) -> bool:
        declared = STUDY_ASSETS[name]
        return bool(declared.gathers) or any(gathers(n) for n in declared.inputs)

    partitioned = [name for name in selected if STUDY_ASSETS[name].partitioned]
    others = [name for name in selected if name not in partitioned]
    return (
        [name for name in others if not gathers(name)],
        partitioned,
        [name for name in others if gathers(name)],
    )


def _run(
    defs: dg.Definitions,
    dagster: dg.DagsterInstance,
    partition: Partition | None,
    names: Sequence[str],
    console: Console,
) -> None:
    if not names:
        return
    with shown_on(console):
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=dagster,
            partition_key=partition.key if partition else None,
            asset_selection=[dg.AssetKey(name.split("/")) for name in names],
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
    if result.success:
        return
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            assert failure.error is not None
            cause = failure.error.cause or failure.error
            raise RunFailed(
                f"{event.step_key}: {cause.message.strip()}\n(run {result.run_id}; the full story "
                "is in `tda ui`)"
            )
    raise RunFailed(f"run {result.run_id} failed; see `tda ui`")
