"""How a function that computes files becomes a versioned, memoised Dagster asset.

What belongs here: the one path from an asset's declaration (inputs, settings, version) to its
recipe, its artifact in the store, and its Dagster result. Assets themselves only declare and
compute; see `assets/`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import dagster as dg

from tda_dagster.errors import TdaError
from tda_dagster.partitions import COHORT_BY_METHOD, Partition, stored_spec
from tda_dagster.progress import reporter
from tda_dagster.schema import dagster_schema
from tda_dagster.settings import MethodSpec, Settings
from tda_dagster.store import Artifact, ArtifactStore, Recipe, Ref, canonical_json, digest_of
from tda_dagster.workspace import Workspace, nested

Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check: whether it passed, and a sentence with the figures."""

    passed: bool
    detail: str


Check = Callable[["Job", Artifact], Verdict]
"""Examines a freshly materialised artifact; its docstring describes it to people."""


class MissingInput(TdaError):
    """An asset that is asked for before what it is made from."""


class Produce(Protocol):
    def __call__(self, job: "Job", out: Path) -> None: ...


@dataclass(frozen=True)
class Job:
    """What the function of an asset is given.

    `settings` holds the declared settings and nothing else (`job.settings.dataset.seed`), so a
    function cannot depend on what its recipe does not say.
    """

    asset: "StudyAsset"
    workspace: Workspace
    settings: Any
    inputs: Mapping[str, Artifact]
    recipe: Recipe
    partition: Partition | None
    run_id: str
    progress: Callable[[int, int], None]

    @property
    def store(self) -> ArtifactStore:
        return self.workspace.store

    @property
    def method(self) -> MethodSpec:
        assert self.partition is not None
        return self.partition.method

    @property
    def cohort(self) -> str:
        assert self.partition is not None
        return self.partition.cohort

    def shard(
        self,
        name: str,
        inputs: Mapping[str, str],
        config: Mapping[str, Any],
        file: str,
        produce: Callable[[Path], None],
    ) -> Path:
        """A part of the work that survives a crash: its one file is found in the store, or made
        and stored at once. Returns a local path of the file."""
        recipe = Recipe(
            f"{self.asset.name}/shard",
            partition=name,
            code_version=self.asset.version,
            config=config,
            inputs=inputs,
        )
        made = self.store.materialize(
            recipe, lambda out: produce(out / file), run_id=self.run_id, head=False
        )
        return made.artifact.path(file)

    def folder(self, artifact: Artifact) -> Path:
        """The artifact as a plain folder with proper names, kept in the workspace's cache."""
        folder = self.workspace.cache / artifact.digest[:16]
        complete = folder / ".complete"
        if not complete.exists():
            artifact.export(folder)
            complete.touch()
        return folder


@dataclass(frozen=True)
class StudyAsset:
    """The declaration of an asset: everything its recipe is made of."""

    name: str
    version: str
    inputs: tuple[str, ...]
    settings: tuple[str, ...]
    partitioned: str | None
    """What the artifact depends on: "cohort", "cohort|method", or None for neither."""
    gathers: tuple[str, ...]
    """Assets of which every partition is an input."""
    fingerprint: Callable[[Any, Workspace], Mapping[str, Any]] | None
    produce: Produce
    checks: Mapping[str, Check]
    finish: Callable[[Job, Artifact], None] | None
    describe: Callable[[Artifact], Metadata]

    @property
    def key(self) -> dg.AssetKey:
        return dg.AssetKey(self.name.split("/"))

    def store_partition(self, partition: Partition | None) -> str:
        """The partition's name in the store."""
        if self.partitioned is None or partition is None:
            return ""
        if self.partitioned == "cohort":
            return partition.cohort
        return f"{partition.cohort}|{partition.method.method_id}"

    def config(
        self, settings: Settings, partition: Partition | None, workspace: Workspace
    ) -> dict[str, Any]:
        """The part of the recipe that is not inputs: settings, method spec, outside files."""
        config: dict[str, Any] = {}
        for path, value in nested(settings, self.settings):
            plain = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
            target = config
            for part in path[:-1]:
                target = target.setdefault(part, {})
            target[path[-1]] = plain
        if self.partitioned == "cohort|method" and partition is not None:
            config["method"] = partition.method.model_dump(mode="json")
        if self.fingerprint is not None:
            outside = self.fingerprint(_view(settings, self.settings, partition), workspace)
            config |= {"outside": dict(outside)} if outside else {}
        return config

    def recipe(
        self,
        settings: Settings,
        inputs: Mapping[str, str],
        partition: Partition | None,
        workspace: Workspace,
    ) -> Recipe:
        return Recipe(
            self.name,
            partition=self.store_partition(partition),
            code_version=self.version,
            config=self.config(settings, partition, workspace),
            inputs=inputs,
        )

    def heads(self, store: ArtifactStore, partition: Partition | None) -> dict[str, Ref]:
        """The live refs of the inputs; raises MissingInput naming what to materialise."""
        found = {}
        for name in self.inputs:
            place = STUDY_ASSETS[name].store_partition(partition)
            head = store.head(name, place)
            if head is None:
                where = f" for {place}" if place else ""
                raise MissingInput(
                    f"{self.name} needs {name}{where}, which has not been materialised; run "
                    f"`tda materialize {name.split('/')[0]}` first"
                )
            found[name] = head
        for name in self.gathers:
            for place in store.partitions(name):
                head = store.head(name, place)
                assert head is not None
                found[f"{name}[{place}]"] = head
        return found


STUDY_ASSETS: dict[str, StudyAsset] = {}
"""Every declared asset by name, in the order of the data flow."""


def study_asset(
    name: str,
    *,
    version: str,
    inputs: Sequence[str] = (),
    settings: Sequence[str] = (),
    partitioned: str | None = None,
    gathers: Sequence[str] = (),
    fingerprint: Callable[[Any, Workspace], Mapping[str, Any]] | None = None,
    checks: Mapping[str, Check] | None = None,
    finish: Callable[[Job, Artifact], None] | None = None,
    describe: Callable[[Artifact], Metadata] = lambda artifact: {},
    kinds: set[str] | None = None,
) -> Callable[[Produce], dg.AssetsDefinition]:
    """Declare an asset around a function that writes its files into a folder.

    The function's docstring describes it to people. `settings` are dotted keys of `params.yaml`;
    their values are the defaults of the launchpad and part of the asset's code version, so that a
    changed setting shows as stale. `fingerprint` adds what the recipe must know of the world
    outside the store (files of the user). `finish` runs after every materialisation, cached or
    not, to lay outputs out in the workspace. An artifact that fails one of the `checks` does not
    become the live one, and nothing downstream runs on it.
    """

    def declare(produce: Produce) -> dg.AssetsDefinition:
        declared = StudyAsset(
            name=name,
            version=version,
            inputs=tuple(inputs),
            settings=tuple(settings),
            partitioned=partitioned,
            gathers=tuple(gathers),
            fingerprint=fingerprint,
            produce=produce,
            checks=checks or {},
            finish=finish,
            describe=describe,
        )
        STUDY_ASSETS[name] = declared
        workspace = Workspace.find()
        group, _ = name.split("/")

        @dg.asset(
            key=declared.key,
            deps=[dg.AssetKey(i.split("/")) for i in (*inputs, *gathers)],
            group_name=group,
            kinds=kinds or set(),
            owners=["team:attribution"],
            description=produce.__doc__,
            code_version=_code_version(declared, workspace),
            partitions_def=COHORT_BY_METHOD if partitioned else None,
            config_schema=dagster_schema(workspace.settings, declared.settings),
            check_specs=[
                dg.AssetCheckSpec(n, asset=declared.key, blocking=True, description=c.__doc__)
                for n, c in declared.checks.items()
            ],
        )
        def compute(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
            return _materialize(declared, context)

        return compute

    return declare


def _code_version(declared: StudyAsset, workspace: Workspace) -> str:
    # Dagster compares code versions, not configuration: with the settings' digest in it, a change
    # of params.yaml makes exactly the assets that read the changed key stale.
    values = dict(nested(workspace.settings, declared.settings))
    plain = {
        ".".join(path): v.model_dump(mode="json") if hasattr(v, "model_dump") else v
        for path, v in values.items()
    }
    return f"{declared.version}+{digest_of(canonical_json(plain))[:8]}"


def _materialize(
    declared: StudyAsset, context: dg.AssetExecutionContext
) -> dg.MaterializeResult[Any]:
    base = Workspace.find()
    overrides = _flat(context.op_execution_context.op_config or {})
    workspace = Workspace(base.root, overrides=overrides)
    partition = _partition(context, workspace) if declared.partitioned else None
    heads = declared.heads(workspace.store, partition)
    digests = {name: ref.digest for name, ref in heads.items()}
    recipe = declared.recipe(workspace.settings, digests, partition, workspace)
    with reporter(declared.name, context.log.info) as progress:
        job = Job(
            asset=declared,
            workspace=workspace,
            settings=_view(workspace.settings, declared.settings, partition),
            inputs={name: workspace.store.artifact(digest) for name, digest in digests.items()},
            recipe=recipe,
            partition=partition,
            run_id=context.run_id,
            progress=progress.update,
        )
        start = time.monotonic()
        made = workspace.store.materialize(
            recipe,
            lambda out: declared.produce(job, out),
            run_id=context.run_id,
            device=workspace.settings.model.device,
            head=False,
        )
        verdicts = {name: check(job, made.artifact) for name, check in declared.checks.items()}
        if all(verdict.passed for verdict in verdicts.values()):
            workspace.store.set_head(made.ref)
        if declared.finish is not None:
            declared.finish(job, made.artifact)
        seconds = time.monotonic() - start
        progress.done(cached=made.cached)
    context.log.info(f"{declared.name}: {'cache hit' if made.cached else 'computed'}")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(made.artifact.digest),
        metadata={
            "cached": made.cached,
            "seconds": round(seconds, 2),
            "computed in (s)": round(made.ref.seconds, 2),
            "size": dg.MetadataValue.text(f"{made.artifact.size_bytes / 1e6:,.2f} MB"),
            "files": len(made.artifact.entries),
            "recipe": made.ref.recipe.key,
            **declared.describe(made.artifact),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=name,
                asset_key=declared.key,
                passed=verdict.passed,
                severity=dg.AssetCheckSeverity.ERROR,
                metadata={"detail": verdict.detail},
            )
            for name, verdict in verdicts.items()
        ],
    )


def _partition(context: dg.AssetExecutionContext, workspace: Workspace) -> Partition:
    key = context.partition_key
    assert isinstance(key, dg.MultiPartitionKey)
    dimensions = key.keys_by_dimension
    return Partition(dimensions["cohort"], stored_spec(workspace.store, dimensions["method"]))


def _view(settings: Settings, keys: tuple[str, ...], partition: Partition | None) -> Any:
    """The declared settings as attributes, and the cohort's name for fingerprints."""
    view = SimpleNamespace()
    for path, value in nested(settings, keys):
        target = view
        for part in path[:-1]:
            if not hasattr(target, part):
                setattr(target, part, SimpleNamespace())
            target = getattr(target, part)
        setattr(target, path[-1], value)
    view.cohort = partition.cohort if partition else None
    return view


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, path + ".")
        else:
            flat[path] = value
    return flat
