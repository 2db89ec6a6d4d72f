"""Dagster is told of what is live in the store without it having seen it made.

What belongs here: comparing the store's live refs with what a Dagster instance knows, and
reporting the difference. A stage that DVC finds unchanged runs nothing, and another machine
records its runs in a Dagster of its own; what they made is live all the same.

An event that is reported here says what one of a run would say: the data version, what it was made
from, and the code version by which Dagster tells whether it is stale. It belongs to no run.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.storage.tags import MULTIDIMENSIONAL_PARTITION_PREFIX

import assets  # noqa: F401  (declares them)
from tda_dagster.dagster_assets import asset_key, code_versions, metadata
from tda_dagster.errors import TdaError
from tda_dagster.materialization import STUDY_ASSETS, StudyAsset
from tda_dagster.partitions import Partition, main_partitions, stored_spec
from tda_dagster.store import ArtifactStore, Ref, StoreError, canonical_json, digest_of
from tda_dagster.workspace import Workspace


@dataclass(frozen=True)
class Live:
    """A live artifact of the study: its asset, its ref, and what Dagster calls its partition (None
    for an unpartitioned asset)."""

    asset: str
    ref: Ref
    partition: dg.MultiPartitionKey | None

    def __str__(self) -> str:
        where = f" [{self.partition}]" if self.partition else ""
        return f"{self.asset}{where} {self.ref.digest[:12]}"


def reconcile(workspace: Workspace, instance: dg.DagsterInstance) -> list[Live]:
    """Report to `instance` every live artifact whose digest is not the data version that it saw
    last of that asset and partition; returns them, in the order of the data flow.

    Dagster compares code versions, and those hold code and settings; files of the user it cannot
    see. So one that would be made otherwise now, for such a file has changed, is reported again, as
    outdated; and so is one that has become what would be made now. The partitions are registered.
    An artifact that has been lost or damaged is not reported.
    """
    heads = _Heads(workspace.store.heads())
    reporter = _Reporter(workspace, heads, instance)
    unknown = [live for live in _live(workspace, heads) if reporter.is_news(live)]
    keys = [live.partition.keys_by_dimension for live in unknown if live.partition]
    for dimension in ("cohort", "method"):
        instance.add_dynamic_partitions(dimension, sorted({key[dimension] for key in keys}))
    return [live for live in unknown if reporter.report(live)]


class _Heads:
    """The live refs of one moment, to be asked as the store is."""

    def __init__(self, refs: Sequence[Ref]) -> None:
        self._refs: dict[str, dict[str, Ref]] = defaultdict(dict)
        for ref in refs:
            self._refs[ref.recipe.asset][ref.recipe.partition] = ref

    def of(self, asset: str) -> list[Ref]:
        return list(self._refs[asset].values())

    def head(self, asset: str, partition: str = "") -> Ref | None:
        return self._refs[asset].get(partition)

    def partitions(self, asset: str) -> list[str]:
        return sorted(self._refs[asset])


def _live(workspace: Workspace, heads: _Heads) -> Iterator[Live]:
    """Everything that is live, in the order of the data flow.

    An artifact that depends on the cohort alone stands for the cohort under each method by which
    something of it is live; under those of the main job if there is none.
    """
    methods: dict[str, set[str]] = defaultdict(set)
    for name, declared in STUDY_ASSETS.items():
        if declared.partitioned == "cohort|method":
            for place in heads.partitions(name):
                cohort, _, method = place.partition("|")
                methods[cohort].add(method)
    for name, declared in STUDY_ASSETS.items():
        for ref in heads.of(name):
            if declared.partitioned is None:
                yield Live(name, ref, None)
                continue
            cohort, _, method = ref.recipe.partition.partition("|")
            under = {method} if method else methods[cohort] or _main_methods(workspace, cohort)
            for each in sorted(under):
                yield Live(name, ref, dg.MultiPartitionKey({"cohort": cohort, "method": each}))


def _main_methods(workspace: Workspace, cohort: str) -> set[str]:
    try:
        return {p.method.method_id for p in main_partitions(workspace, cohort)}
    except TdaError:  # the cohort's file is gone
        return set()


class _Reporter:
    """Reports artifacts, those that others are made from first."""

    def __init__(self, workspace: Workspace, heads: _Heads, instance: dg.DagsterInstance) -> None:
        self._workspace = workspace
        self._heads = heads
        self._instance = instance
        self._described: dict[str, dict[str, Any] | None] = {}
        self._latest: dict[str, str] = {}
        self._current: dict[tuple[str, str], bool] = {}
        self._partitions: dict[str, Partition | None] = {"": None}

    def is_news(self, live: Live) -> bool:
        """Whether Dagster does not know of it, takes it for stale and should not any more, or for
        fresh and should not."""
        wanted = dg.AssetRecordsFilter(
            asset_key(live.asset), asset_partitions=[live.partition] if live.partition else None
        )
        records = self._instance.fetch_materializations(wanted, limit=1).records
        event = records[0].asset_materialization if records else None
        tags = (event.tags if event else None) or {}
        if tags.get(DATA_VERSION_TAG) != live.ref.digest:
            return True
        match tags.get(CODE_VERSION_TAG):
            case version if version == _outdated(live.ref):
                return self._is_current(live.ref)
            case version if version == self._versions[live.asset]:
                return not self._is_current(live.ref)
        return False

    def report(self, live: Live) -> bool:
        """Report one; says whether its artifact is there to be reported."""
        described = self._metadata(live.ref)
        if described is None:
            return False
        self._instance.report_runless_asset_event(
            dg.AssetMaterialization(
                asset_key(live.asset),
                description="Found live in the store; made elsewhere, or without this Dagster.",
                partition=live.partition,
                metadata=described,
                tags=self._tags(live),
            )
        )
        return True

    def _metadata(self, ref: Ref) -> dict[str, Any] | None:
        key = ref.recipe.key
        if key not in self._described:
            declared = STUDY_ASSETS[ref.recipe.asset]
            try:
                artifact = self._workspace.store.artifact(ref.digest)
                self._described[key] = metadata(declared, ref, artifact)
            except StoreError:
                self._described[key] = None
        return self._described[key]

    def _tags(self, live: Live) -> dict[str, str]:
        """What Dagster itself writes beside a data version, as it would have here."""
        declared = STUDY_ASSETS[live.asset]
        tags = {
            DATA_VERSION_TAG: live.ref.digest,
            DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
            CODE_VERSION_TAG: self._versions[live.asset]
            if self._is_current(live.ref)
            else _outdated(live.ref),
        }
        for name in (*declared.inputs, *declared.gathers):
            if (version := _input_version(declared, live.ref, name)) is not None:
                tags[get_input_data_version_tag(asset_key(name))] = version
                tags[get_input_event_pointer_tag(asset_key(name))] = self._latest_event(name)
        if live.partition:
            for dimension, key in live.partition.keys_by_dimension.items():
                tags[f"{MULTIDIMENSIONAL_PARTITION_PREFIX}{dimension}"] = key
        return tags

    @cached_property
    def _versions(self) -> dict[str, str]:
        return code_versions(self._workspace)

    def _latest_event(self, name: str) -> str:
        """The number of the latest event of an asset, all of whose partitions are reported."""
        if name not in self._latest:
            found = self._instance.fetch_materializations(asset_key(name), limit=1).records
            self._latest[name] = str(found[0].storage_id) if found else NULL_EVENT_POINTER
        return self._latest[name]

    def _is_current(self, ref: Ref) -> bool:
        """Whether a live artifact, and all that is behind it, would be made in the same way now.

        What is gathered was made at different times; it does to have one part of it current.
        """
        known = (ref.recipe.asset, ref.recipe.partition)
        if known not in self._current:
            try:
                self._current[known] = self._would_be_made(ref)
            except TdaError:  # the cohort's file, or an input, is gone
                self._current[known] = False
        return self._current[known]

    def _would_be_made(self, ref: Ref) -> bool:
        workspace = self._workspace
        declared = STUDY_ASSETS[ref.recipe.asset]
        partition = self._partition(ref.recipe.partition)
        inputs = declared.heads(cast(ArtifactStore, self._heads), partition)
        digests = {name: ref.digest for name, ref in inputs.items()}
        if ref.recipe != declared.recipe(workspace.settings, digests, partition, workspace):
            return False
        gathered = [part for part in map(self._heads.of, declared.gathers) if part]
        return all(self._is_current(inputs[name]) for name in declared.inputs) and all(
            any(map(self._is_current, parts)) for parts in gathered
        )

    def _partition(self, place: str) -> Partition | None:
        """The partition of an artifact by its name in the store; under any method where that does
        not matter."""
        if place not in self._partitions:
            cohort, _, method = place.partition("|")
            self._partitions[place] = (
                Partition(cohort, stored_spec(self._workspace.store, method))
                if method
                else main_partitions(self._workspace, cohort)[0]
            )
        return self._partitions[place]


def _outdated(ref: Ref) -> str:
    """The code version of an artifact that would not be made in the same way now."""
    return f"{ref.recipe.code_version}+{ref.recipe.key[:8]}"


def _input_version(declared: StudyAsset, ref: Ref, name: str) -> str | None:
    """The data version of an input that the artifact was made from; None if it was not."""
    inputs = ref.recipe.inputs
    if name in declared.inputs:
        return inputs.get(name)
    gathered = {key: digest for key, digest in inputs.items() if key.startswith(f"{name}[")}
    return digest_of(canonical_json(gathered))
