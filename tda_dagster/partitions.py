"""Partitions: cohorts and method specs, as Dagster's dynamic partition keys.

Every partitioned asset has both dimensions, `cohort/queries` too although queries do not depend on
the method: assets of one run must share their partitions, and the whole chain is one run. Its
artifact is the same for every method.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from tda_dagster.attribution.methods import (
    MethodSpec,
    experiment,
    experiment_specs,
    method_specs,
    read_spec,
)
from tda_dagster.settings import SettingsError
from tda_dagster.stages_file import StagesFile
from tda_dagster.store import ArtifactStore, Recipe
from tda_dagster.workspace import Workspace

COHORT = dg.DynamicPartitionsDefinition(name="cohort")
METHOD = dg.DynamicPartitionsDefinition(name="method")
COHORT_BY_METHOD = dg.MultiPartitionsDefinition({"cohort": COHORT, "method": METHOD})

SPEC_ASSET = "method/spec"
SPEC_FILE = "spec.json"


@dataclass(frozen=True)
class Partition:
    """A cohort and a method spec."""

    cohort: str
    method: MethodSpec

    @property
    def key(self) -> dg.MultiPartitionKey:
        return dg.MultiPartitionKey({"cohort": self.cohort, "method": self.method.method_id})


def main_partitions(workspace: Workspace, cohort: str) -> list[Partition]:
    """The partitions of a cohort under the methods of the main job."""
    workspace.cohort(cohort)
    return [Partition(cohort, spec) for spec in method_specs(workspace.settings)]


def experiment_partitions(workspace: Workspace, name: str) -> list[Partition]:
    """The partitions of an experiment: each of its cohorts under each of its method specs."""
    specs = experiment_specs(workspace.settings, name)
    cohorts = experiment(workspace.settings, name).cohorts
    return [Partition(cohort, spec) for cohort in cohorts for spec in specs]


def register(
    instance: dg.DagsterInstance, workspace: Workspace, partitions: Iterable[Partition]
) -> None:
    """Make partitions known to Dagster, and their method specs to the store."""
    cohorts, specs = set(), {}
    for partition in partitions:
        cohorts.add(partition.cohort)
        specs[partition.method.method_id] = partition.method
    for spec in specs.values():
        keep_spec(workspace.store, spec)
    instance.add_dynamic_partitions("cohort", sorted(cohorts))
    instance.add_dynamic_partitions("method", list(specs))


def declared_partitions(workspace: Workspace) -> list[Partition]:
    """All that the settings ask for and there are cohorts for: every cohort under the methods of
    the main job, the stages' one (`dvc.yaml`) first, then every experiment."""
    first = StagesFile(workspace.root).cohort
    cohorts = sorted(workspace.cohorts(), key=lambda name: (name != first, name))
    wanted = [p for name in cohorts for p in main_partitions(workspace, name)]
    for name in workspace.settings.experiments:
        wanted += [p for p in experiment_partitions(workspace, name) if p.cohort in cohorts]
    return list(dict.fromkeys(wanted))


def keep_spec(store: ArtifactStore, spec: MethodSpec) -> None:
    """Store a method spec under its id, so that a partition outlives the settings it came from."""
    recipe = Recipe(
        SPEC_ASSET, partition=spec.method_id, code_version="1", config=spec.model_dump(mode="json")
    )

    def write(out: Path) -> None:
        (out / SPEC_FILE).write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")

    store.materialize(recipe, write)


def stored_spec(store: ArtifactStore, method_id: str) -> MethodSpec:
    """The method spec with that id; raises SettingsError when it was never registered."""
    ref = store.head(SPEC_ASSET, method_id)
    if ref is None:
        raise SettingsError(
            f"method {method_id!r} is unknown; run `tda partitions` to register the method specs "
            "of params.yaml"
        )
    return read_spec(store.artifact(ref.digest).read_bytes(SPEC_FILE))
