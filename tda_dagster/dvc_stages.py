"""What a command does for DVC when the assets have been materialised: it writes the files that DVC
compares, and tells DVC of a run that was not one of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from tda_dagster.dvc_figures import write_figures
from tda_dagster.dvc_inputs import lay_out_inputs
from tda_dagster.materialization import STUDY_ASSETS
from tda_dagster.partitions import main_partitions
from tda_dagster.settings import PARAMS_FILE
from tda_dagster.stages_file import INPUTS_STAGE, StagesFile
from tda_dagster.workspace import Workspace


def write_outputs(workspace: Workspace, names: Sequence[str] | None) -> None:
    """Write what the stages of some asset groups (all: None) give to DVC, of the stages' cohort:
    lists of digests and, with the warehouse, the figures."""
    cohort = StagesFile(workspace.root).cohort
    _write_digests(workspace, cohort, names)
    if names is None or {"warehouse", "warehouse/duckdb"} & set(names):
        write_figures(workspace, cohort)


class RunRecord:
    """Tells DVC that all stages are done, if they were done under what it sees now.

    Make it before the run; it remembers the settings and the cohort.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._before = self._declared()

    def commit(self) -> str | None:
        """Record the present state in `dvc.lock`, where the study is one of DVC's; returns why
        that could not be done, as a sentence."""
        root = self._workspace.root
        stages = StagesFile(root).names
        if not (root / ".dvc").is_dir() or not stages:
            return None
        if self._declared() != self._before:
            return "settings or cohort were changed during the run"
        if INPUTS_STAGE in stages:
            lay_out_inputs(self._workspace)
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "commit", "--force", *stages],
            cwd=root,
            env={**os.environ, "DVC_NO_ANALYTICS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            return (said or ["`dvc commit` failed"])[0].removeprefix("ERROR: ").rstrip(".")
        return None

    def _declared(self) -> list[bytes]:
        root = self._workspace.root
        files = (root / PARAMS_FILE, self._workspace.cohort_file(StagesFile(root).cohort))
        return [file.read_bytes() for file in files if file.is_file()]


def _write_digests(workspace: Workspace, cohort: str, names: Sequence[str] | None) -> None:
    """Write the digests of what is live of each named group (all: None), of the cohort under the
    methods of the main job, to data/digests/<group>.json, with nothing in it that differs between
    two equal runs."""
    partitions = main_partitions(workspace, cohort)
    wanted = {
        (name, declared.store_partition(partition))
        for name, declared in STUDY_ASSETS.items()
        for partition in partitions
    }
    found: dict[str, dict[str, str]] = {}
    for ref in workspace.store.heads():
        group, _, name = ref.recipe.asset.partition("/")
        place = ref.recipe.partition
        if (ref.recipe.asset, place) in wanted and (names is None or group in names):
            found.setdefault(group, {})[f"{name}[{place}]"] = ref.digest
    workspace.digests.mkdir(parents=True, exist_ok=True)
    for group, digests in found.items():
        path = workspace.digests / f"{group}.json"
        path.write_text(json.dumps(digests, indent=2, sort_keys=True) + "\n", encoding="utf-8")
