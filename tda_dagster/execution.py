"""Running the asset graph from the command line, in this process, recorded in Dagster.

What belongs here: what `tda run`, `tda materialize` and DVC share. The browser's runs take the
same assets through the same definitions.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from rich.console import Console

from tda_dagster.errors import TdaError
from tda_dagster.partitions import Partition, register
from tda_dagster.progress import bars
from tda_dagster.workspace import WORKSPACE_VARIABLE, Workspace

_DAGSTER_YAML = """telemetry:
  enabled: false
nux:
  enabled: false
"""


class RunFailed(TdaError):
    """A run that did not reach its end."""


def prepare_home(workspace: Workspace) -> Path:
    """Make the workspace's Dagster home; returns its path."""
    home = workspace.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    if not config.exists():
        config.write_text(_DAGSTER_YAML, encoding="utf-8")
    return home


@contextmanager
def instance(workspace: Workspace) -> Iterator[dg.DagsterInstance]:
    """The workspace's Dagster instance; a DAGSTER_HOME in the environment has precedence."""
    os.environ.setdefault("DAGSTER_HOME", str(prepare_home(workspace)))
    with dg.DagsterInstance.get() as found:
        yield found


def materialize(
    workspace: Workspace, cohort: str, *, names: Sequence[str] | None, console: Console
) -> None:
    """Materialise asset groups and assets by name (all: None) for a cohort and every method spec.

    Raises the error of the first asset that failed, or RunFailed naming the check that did.
    """
    os.environ[WORKSPACE_VARIABLE] = str(workspace.root)
    from tda_dagster.definitions import defs  # reads the workspace

    workspace.cohort(cohort)
    keys = _select(defs, names)
    with instance(workspace) as dagster:
        wanted = [p for p in register(dagster, workspace) if p.cohort == cohort]
        for partition in wanted:
            with bars(console):
                _run(defs, dagster, partition, keys)


def _select(defs: dg.Definitions, names: Sequence[str] | None) -> list[dg.AssetKey]:
    keys = list(defs.resolve_all_asset_keys())
    if names is None:
        return keys
    known = {key.path[0] for key in keys} | {"/".join(key.path) for key in keys}
    unknown = set(names) - known
    if unknown:
        raise TdaError(
            f"{sorted(unknown)[0]!r} is neither an asset group nor an asset; there are: "
            f"{', '.join(sorted(known))}"
        )
    return [key for key in keys if key.path[0] in names or "/".join(key.path) in names]


def _run(
    defs: dg.Definitions,
    dagster: dg.DagsterInstance,
    partition: Partition,
    keys: list[dg.AssetKey],
) -> None:
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=dagster,
        partition_key=partition.key,
        asset_selection=keys,
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


def write_digests(workspace: Workspace, cohort: str, names: Sequence[str] | None) -> None:
    """Write the digest of every live artifact of each named group (all: None) to
    data/digests/<group>.json, with nothing in it that differs between two equal runs."""
    found: dict[str, dict[str, str]] = {}
    for ref in workspace.store.heads():
        group, _, name = ref.recipe.asset.partition("/")
        partition = ref.recipe.partition
        if partition and partition.partition("|")[0] != cohort:
            continue
        if names is None or group in names:
            found.setdefault(group, {})[f"{name}[{partition}]"] = ref.digest
    workspace.digests.mkdir(parents=True, exist_ok=True)
    for group, digests in found.items():
        path = workspace.digests / f"{group}.json"
        path.write_text(json.dumps(digests, indent=2, sort_keys=True) + "\n", encoding="utf-8")
