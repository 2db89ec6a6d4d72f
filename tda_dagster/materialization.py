"""How a function that computes files becomes a versioned, memoised artifact.

What belongs here: the declaration of an asset (inputs, settings, version, checks), the recipe that
follows from it, and what its function is given. How Dagster sees it is in `dagster_assets`; the
declarations themselves are in `assets/`.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Generic, Protocol, TypeVar

from tda_dagster.attribution.methods import MethodSpec
from tda_dagster.errors import TdaError
from tda_dagster.faults import about
from tda_dagster.masking import masked_values
from tda_dagster.numerics import worker_pool
from tda_dagster.partitions import Partition
from tda_dagster.settings import Settings
from tda_dagster.store import (
    Artifact,
    ArtifactStore,
    Recipe,
    Ref,
)
from tda_dagster.workspace import Workspace, nested

T = TypeVar("T")
Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check: whether it passed, and a sentence with the figures. If it is not
    `severe`, a failure is a warning: the artifact becomes the live one all the same."""

    passed: bool
    detail: str
    severe: bool = True


Check = Callable[["Job", Artifact], Verdict]
"""Examines a freshly materialised artifact; its docstring describes it to people."""


class MissingInput(TdaError):
    """An asset that is asked for before what it is made from."""


class Produce(Protocol):
    def __call__(self, job: "Job", out: Path) -> None: ...


@dataclass(frozen=True)
class Shard:
    """A part of an asset's work: its name, everything that determines its result, and `produce`.

    `produce` writes the one file named `file` to the path it is given. With `file` "", it writes
    any number of files into the folder it is given; `Job.folders` works on such shards.
    """

    name: str
    inputs: Mapping[str, str]
    config: Mapping[str, Any]
    file: str
    produce: Callable[[Path], None]


_MAKING = threading.Lock()


class PerThread(Generic[T]):
    """A value of its own for every thread that asks: for models, whose weights unlearning moves."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._local = make, threading.local()

    def __call__(self) -> T:
        if not hasattr(self._local, "value"):
            # One at a time: diffusers changes torch globally while it opens a pipeline.
            with _MAKING:
                self._local.value = self._make()
        value: T = self._local.value
        return value


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
    _found_s: list[float] = field(default_factory=list)

    @property
    def spent_s(self) -> float:
        """Seconds that shards took which earlier runs have left, for the work to be said to take as
        long whether or not it was interrupted."""
        return sum(self._found_s)

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

    def shard(self, shard: Shard) -> Path:
        """A part of the work that survives a crash: its one file is found in the store, or made
        and stored at once. Returns a local path of the file."""
        return self._shard(shard, _file_of(shard), side_by_side=1)

    def shards(self, shards: Sequence[Shard]) -> list[Path]:
        """The same for several that do not need each other, side by side on threads; reports
        progress. What their `produce` shares must bear that (see `PerThread`)."""
        return self._side_by_side([(shard, _file_of(shard)) for shard in shards])

    def folders(self, shards: Sequence[Shard]) -> list[Artifact]:
        """The same for shards that write a folder of files."""
        return self._side_by_side([(shard, _verified) for shard in shards])

    def _side_by_side(self, work: Sequence[tuple[Shard, Callable[[Artifact], T]]]) -> list[T]:
        workers = self.workspace.workers

        def make(part: tuple[Shard, Callable[[Artifact], T]]) -> T:
            return self._shard(*part, side_by_side=workers)

        pool = worker_pool(workers)
        try:
            results = []
            for made in pool.map(make, work):
                results.append(made)
                self.progress(len(results), len(work))
        except Exception:
            pool.shutdown(cancel_futures=True)
            raise
        except BaseException:  # interrupted: do not wait for computations under way
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
        return results

    def _shard(self, shard: Shard, read: Callable[[Artifact], T], *, side_by_side: int) -> T:
        recipe = Recipe(
            f"{self.asset.name}/shard",
            partition=shard.name,
            code_version=self.asset.version,
            config=shard.config,
            inputs=shard.inputs,
        )
        with about(f"shard {shard.name}"):
            result, made = self.store.materialize_and_read(
                recipe,
                lambda out: shard.produce(out / shard.file),
                read,
                run_id=self.run_id,
            )
        if made.cached:
            self._found_s.append(made.ref.seconds / side_by_side)
        return result

    def folder(self, artifact: Artifact) -> Path:
        """The artifact as a plain folder with proper names, kept in the workspace's cache."""
        return self.workspace.plain_folder(artifact)


def _file_of(shard: Shard) -> Callable[[Artifact], Path]:
    return lambda artifact: artifact.path(shard.file)


def _verified(artifact: Artifact) -> Artifact:
    """The artifact, once all its files have been read where they are kept."""
    for name in artifact.entries:
        artifact.path(name)
    return artifact


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
    kinds: tuple[str, ...]
    on_request: bool
    """Whether it is materialised only when it is asked for by name: it costs far more than the
    study itself."""
    by_shard: tuple[str, ...]
    """Inputs that are worked on shard by shard: only what changed of them is worked on again."""
    unmoved_by: Callable[[Any, Workspace, Partition | None], Collection[str]]
    """The inputs that do not bear on the result under these settings: it comes out the same though
    they change."""

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
            outside = self.fingerprint(settings_view(settings, self.settings, partition), workspace)
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
            config=masked_values(self.config(settings, partition, workspace)),
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
"""Every declared asset by name; importing `assets` fills it."""


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
    kinds: Sequence[str] = (),
    on_request: bool = False,
    by_shard: Sequence[str] = (),
    unmoved_by: Callable[[Any, Workspace, Partition | None], Collection[str]] = lambda *_: (),
) -> Callable[[Produce], "StudyAsset"]:
    """Declare an asset around a function that writes its files into a folder.

    The function's docstring describes it to people. `settings` are dotted keys of `params.yaml`;
    their values are the defaults of the launchpad. `fingerprint` adds what the recipe must know of
    the world outside the store (files of the user). `finish` runs after every materialisation,
    cached or not, to lay outputs out in the workspace. An artifact that fails one of the `checks`
    does not become the live one, and nothing downstream runs on it. `by_shard` and `unmoved_by`
    change no run; by them it is foretold what a change of tracks will take (see `turnover`).
    """

    def declare(produce: Produce) -> StudyAsset:
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
            kinds=tuple(kinds),
            on_request=on_request,
            by_shard=tuple(by_shard),
            unmoved_by=unmoved_by,
        )
        STUDY_ASSETS[name] = declared
        return declared

    return declare


def settings_view(settings: Settings, keys: tuple[str, ...], partition: Partition | None) -> Any:
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
