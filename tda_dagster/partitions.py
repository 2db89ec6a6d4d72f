"""Partitions: cohorts and method specs, as Dagster's dynamic partition keys.

Every partitioned asset has both dimensions, `cohort/queries` too although queries do not depend on
the method: assets of one run must share their partitions, and the whole chain is one run. Its
artifact is the same for every method.
"""

from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from tda_dagster.settings import MethodSpec, SettingsError
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


def register(instance: dg.DagsterInstance, workspace: Workspace) -> list[Partition]:
    """Make the workspace's cohorts and method specs known to Dagster and the store; returns the
    partitions its settings ask for."""
    specs = workspace.settings.method_specs()
    for spec in specs:
        keep_spec(workspace.store, spec)
    instance.add_dynamic_partitions("cohort", workspace.cohorts())
    instance.add_dynamic_partitions("method", [spec.method_id for spec in specs])
    return [Partition(cohort, spec) for cohort in workspace.cohorts() for spec in specs]


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
    return MethodSpec.model_validate_json(store.artifact(ref.digest).read_bytes(SPEC_FILE))
