"""Running the asset graph from the command line, in this process, recorded in Dagster.

What belongs here: what `tda run`, `tda materialize` and DVC share. The browser's runs take the
same assets through the same definitions.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from tda_dagster.errors import TdaError
from tda_dagster.faults import chain, of_environment
from tda_dagster.interruption import raise_if_interrupted
from tda_dagster.killed_runs import mark_killed_runs, process_tags
from tda_dagster.leftovers import remove_leftovers
from tda_dagster.locking import alone_in
from tda_dagster.materialization import STUDY_ASSETS
from tda_dagster.partitions import Partition, register
from tda_dagster.progress import shown_on
from tda_dagster.queries import check_cohort, check_segments
from tda_dagster.terminal import Terminal, styled
from tda_dagster.workspace import WORKSPACE_VARIABLE, Workspace

_PROOF = "base/autoencoder"
"""The asset that proves the user's pipeline."""

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


_CHECKED_AGAINST = ("base/autoencoder", "dataset/manifest", "dataset/index")
"""The assets that are needed to check every query, besides the cohort files."""


class RunFailed(TdaError):
    """A run that did not reach its end."""


def prepare_home(workspace: Workspace) -> Path:
    """Make the workspace's Dagster home; returns its path. Raises TdaError if it cannot."""
    home = workspace.dagster_home
    try:
        home.mkdir(parents=True, exist_ok=True)
        with alone_in(home):
            config = home / "dagster.yaml"
            if not config.exists():
                config.write_text(_DAGSTER_YAML, encoding="utf-8")
    except OSError as error:
        raise TdaError(
            f"Dagster's folder {home} cannot be made: {of_environment(error) or error}. Or set "
            "DAGSTER_HOME to a folder elsewhere"
        ) from error
    return home


@contextmanager
def instance(workspace: Workspace) -> Iterator[dg.DagsterInstance]:
    """The workspace's Dagster instance; a DAGSTER_HOME in the environment has precedence.

    Runs that were killed are marked as failed, and what else dead processes left in the workspace
    is removed. Raises TdaError when DAGSTER_HOME is no folder that can be used.
    """
    home = _home(workspace)
    # Dagster makes the tables of a new home, and fails if others do so at the same time.
    with _told_of(home, Exception), alone_in(home):
        reference = InstanceRef.from_dir(str(home), overrides=_NO_CAPTURE)
        found = dg.DagsterInstance.from_ref(reference)
        mark_killed_runs(found)
    remove_leftovers(workspace)
    with _told_of(home, sqlite3.Error), found:
        yield found


@contextmanager
def _told_of(home: Path, kind: type[Exception]) -> Iterator[None]:
    """Name the folder in faults of the machine that come from errors of this kind."""
    try:
        yield
    except Exception as error:
        words = of_environment(error)
        if words is None or not any(isinstance(link, kind) for link in chain(error)):
            raise
        raise TdaError(f"Dagster's folder {home} cannot be used: {words}") from error


def _home(workspace: Workspace) -> Path:
    """The folder that DAGSTER_HOME names, which is the workspace's own if it is not set."""
    given = os.environ.get("DAGSTER_HOME")
    if not given or Path(given) == workspace.dagster_home:
        os.environ["DAGSTER_HOME"] = str(prepare_home(workspace))
        return workspace.dagster_home
    home = Path(given)
    if not home.is_absolute():
        raise TdaError(
            f"DAGSTER_HOME is {given!r}, a relative path; set it to an absolute one, such as "
            f"{str(home.absolute())!r}, or unset it"
        )
    if not home.is_dir():
        raise TdaError(f"DAGSTER_HOME is {given!r}, which is no folder; make it, or unset it")
    return home


def materialize(
    workspace: Workspace,
    partitions: Sequence[Partition],
    *,
    names: Sequence[str] | None,
    console: Terminal,
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
    cohorts = sorted({partition.cohort for partition in partitions})
    from tda_dagster.definitions import defs  # reads the workspace
    from tda_dagster.reconcile import reconcile

    shared, partitioned, gathered = _phases(_select(names))
    with instance(workspace) as dagster:
        register(dagster, workspace, partitions)
        if workspace.settings.model.pipeline is not None and _PROOF in shared:
            # Alone and first: Dagster would go on with all the music after it had failed.
            _run(defs, dagster, None, [_PROOF], console)
            shared = [name for name in shared if name != _PROOF]
        if partitioned:
            shared = _check_queries(
                workspace, cohorts, shared, partial(_run, defs, dagster), console
            )
        _run(defs, dagster, None, shared, console)
        chosen = choose(partitions) if partitioned else ()
        for number, partition in enumerate(chosen):
            if len(chosen) > 1:
                console.print(
                    styled(
                        (f"{number + 1}/{len(chosen)}", "dim"),
                        f" {partition.cohort} by {partition.method.label} ",
                        (partition.method.method_id, "dim"),
                    )
                )
            _run(defs, dagster, partition, partitioned, console)
        _run(defs, dagster, None, gathered, console)
        reconcile(workspace, dagster)


def _check_queries(
    workspace: Workspace,
    cohorts: Sequence[str],
    shared: list[str],
    run: Callable[[Partition | None, Sequence[str], Terminal], None],
    console: Terminal,
) -> list[str]:
    """Refuse queries that cannot be attributed, and say how many windows recordings have. What is
    known only when the dataset is indexed is checked then, before a model is trained. Returns what
    is left to run of the `shared` assets. Raises QueryError."""
    checks = [check_cohort(workspace, name) for name in cohorts]
    if any(check.is_open for check in checks):
        run(None, [name for name in shared if name in _CHECKED_AGAINST], console)
        shared = [name for name in shared if name not in _CHECKED_AGAINST]
        checks = [check_cohort(workspace, name) for name in cohorts]
        for name in cohorts:
            check_segments(workspace, name)
    for check in checks:
        for piece, length in check.lengths.items():
            console.print(f"{piece}: {length}")
    return shared


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
    console: Terminal,
) -> None:
    if not names:
        return
    with shown_on(console):
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=dagster,
            partition_key=partition.key if partition else None,
            asset_selection=[dg.AssetKey(name.split("/")) for name in names],
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            tags=process_tags(),
            raise_on_error=False,
        )
    raise_if_interrupted()
    for check in result.get_asset_check_evaluations():
        if not check.passed and check.severity is dg.AssetCheckSeverity.WARN:
            warning = f"{check.asset_key.to_user_string()}: {check.metadata['detail'].value}"
            console.print("warning:", warning, style="yellow")
    if not result.success:
        raise RunFailed(f"{_cause(result)} (run {result.run_id})")


def _cause(result: dg.ExecuteInProcessResult) -> str:
    """What the first step that failed says; the failed checks, if it is that some did not pass."""
    failed = [
        f"{check.asset_key.to_user_string()}: the check {check.check_name} failed: "
        f"{check.metadata['detail'].value}"
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR
    ]
    if failed:
        return "; ".join(failed)
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data and failure.user_failure_data.description:
                return failure.user_failure_data.description
            name = (event.step_key or "").replace("__", "/")
            return f"{name}: Dagster could not run it; the whole story is in `tda ui`"
    return "the run failed before its first asset; the whole story is in `tda ui`"
