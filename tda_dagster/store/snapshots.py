"""Snapshots: all live refs of a moment under a name, and the store as it was then.

A snapshot lies at `snapshots/<name>.json`, is written once and never changes. What it pins, and
everything behind that, is kept by garbage collection until the snapshot is removed.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol

from tda_dagster.store import lineage
from tda_dagster.store.artifacts import ArtifactStore
from tda_dagster.store.errors import CorruptRecord, StoreError
from tda_dagster.store.places import Place
from tda_dagster.store.records import read_records, sealed, unsealed
from tda_dagster.store.refs import Ref
from tda_dagster.store.trees import Artifact
from tda_dagster.store.upkeep import parts

LIVE = "live"
"""What the present state of a store is called where a snapshot's name could stand."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FOLDER = "snapshots"


class StoreView(Protocol):
    """Reading a store at one moment: now (an `ArtifactStore`) or that of a snapshot."""

    def heads(self) -> list[Ref]:
        """All refs that are live in this view, by asset and partition."""

    def head(self, asset: str, partition: str = "") -> Ref | None:
        """The live ref of an asset and partition."""

    def partitions(self, asset: str) -> list[str]:
        """The partitions of `asset` that have a head, sorted."""

    def refs(self) -> Iterator[Ref]:
        """All refs of this view, live or not, in a fixed order."""

    def artifact(self, digest: str) -> Artifact:
        """The artifact with `digest`."""


@dataclass(frozen=True)
class Pin:
    """One ref that a snapshot holds: `recipe` is its key, `digest` that of its artifact."""

    asset: str
    partition: str
    recipe: str
    digest: str


@dataclass(frozen=True)
class Snapshot:
    """A name for what was live at `created_at` (ISO 8601, UTC)."""

    name: str
    note: str
    created_at: str
    pins: tuple[Pin, ...]


class SnapshotView:
    """The store as it was when a snapshot was taken: what it pinned, and all that was made from.

    Read-only, and as good as the store: a `StoreError` names what has been lost since.
    """

    def __init__(self, store: ArtifactStore, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._store = store
        self._heads = {
            (ref.recipe.asset, ref.recipe.partition): ref for ref in pinned(store, snapshot)
        }

    def heads(self) -> list[Ref]:
        return [self._heads[place] for place in sorted(self._heads)]

    def head(self, asset: str, partition: str = "") -> Ref | None:
        return self._heads.get((asset, partition))

    def partitions(self, asset: str) -> list[str]:
        return sorted(partition for name, partition in self._heads if name == asset)

    def refs(self) -> Iterator[Ref]:
        yield from self._refs

    def artifact(self, digest: str) -> Artifact:
        return self._store.artifact(digest)

    @cached_property
    def _refs(self) -> list[Ref]:
        found = lineage.with_ancestors(self.heads(), self._store.refs())
        return sorted(found, key=lambda r: (r.recipe.asset, r.recipe.partition, r.recipe.key))


def add_snapshot(store: ArtifactStore, name: str, note: str = "") -> Snapshot:
    """Pin all live refs under `name`.

    Raises `StoreError` if the name is taken (by whoever was first), is no name, or if nothing is
    live.
    """
    heads = store.heads()
    if not heads:
        raise StoreError(f"{store.root}: nothing is live yet, so there is nothing to pin")
    snapshot = Snapshot(
        name=name,
        note=note,
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        pins=tuple(
            Pin(ref.recipe.asset, ref.recipe.partition, ref.recipe.key, ref.digest) for ref in heads
        ),
    )
    if not parts(store).place.create(_file(name), sealed(asdict(snapshot))):
        raise StoreError(
            f"there is a snapshot {name!r} already; snapshots do not change: take another name, or "
            f"remove the old one first (tda snapshot remove {name})"
        )
    return snapshot


def list_snapshots(store: ArtifactStore) -> list[Snapshot]:
    """All snapshots, oldest first. Raises `CorruptRecord` for a damaged one."""
    found = scan_snapshots(parts(store).place).values()
    return sorted(map(_sound, found), key=lambda s: (s.created_at, s.name))


def read_snapshot(store: ArtifactStore, name: str) -> Snapshot:
    """The snapshot called `name`. Raises `StoreError` listing those there are."""
    place, file = parts(store).place, _file(name)
    record = _read(place, [file]).get(file)
    if record is None:
        known = ", ".join(snapshot.name for snapshot in list_snapshots(store)) or "none yet"
        raise StoreError(
            f"there is no snapshot {name!r} in {store.root}; there are: {known}. "
            "`tda snapshot add NAME` makes one"
        )
    return _sound(record)


def remove_snapshot(store: ArtifactStore, name: str) -> Snapshot:
    """Forget a snapshot; returns what it was. What only it held may then be collected. Raises
    `StoreError` if there is none of that name."""
    snapshot = read_snapshot(store, name)
    parts(store).place.remove(_file(name))
    return snapshot


def open_snapshot(store: ArtifactStore, name: str) -> SnapshotView:
    """The store as the snapshot has it. Raises `StoreError` for an unknown or incomplete one."""
    return SnapshotView(store, read_snapshot(store, name))


def open_view(store: ArtifactStore, name: str) -> StoreView:
    """The store as it is ("live"), or as a snapshot has it."""
    return store if name == LIVE else open_snapshot(store, name)


def pinned(store: ArtifactStore, snapshot: Snapshot) -> list[Ref]:
    """The refs that a snapshot holds. Raises `StoreError` naming one that has gone or now stands
    for other bytes."""
    refs = {ref.recipe.key: ref for ref in store.refs()}
    for pin in snapshot.pins:
        if (wrong := wrong_with(pin, refs)) is not None:
            raise StoreError(f"snapshot {snapshot.name!r}: {wrong}")
    return [refs[pin.recipe] for pin in snapshot.pins]


def scan_snapshots(place: Place) -> dict[str, Snapshot | CorruptRecord]:
    """Every snapshot by the name of its file, or what is wrong with it."""
    return _read(place, place.names(_FOLDER))


def wrong_with(pin: Pin, refs: dict[str, Ref]) -> str | None:
    """What keeps a pin from being what it was."""
    where = pin.asset + (f" [{pin.partition}]" if pin.partition else "")
    ref = refs.get(pin.recipe)
    if ref is None:
        return (
            f"the ref {pin.recipe} of {where} has gone. Put it back from a backup, or remove the "
            "snapshot"
        )
    if ref.digest != pin.digest:
        return (
            f"the artifact {pin.digest} of {where} was lost and has been made again with other "
            f"bytes ({ref.digest}). Take a new snapshot and remove this one"
        )
    return None


def _file(name: str) -> str:
    if not _NAME.fullmatch(name) or name == LIVE:
        raise StoreError(
            f"snapshot {name!r}: a name is letters, digits, '.', '-' and '_', starting with a "
            f"letter or digit, at most 100, and not {LIVE!r}, which means the present"
        )
    return f"{_FOLDER}/{name}.json"


def _read(place: Place, names: Iterable[str]) -> dict[str, Snapshot | CorruptRecord]:
    """The snapshots under `names`; files of others, such as a file manager's, are passed over."""

    def parse(file: str, data: bytes) -> Snapshot | CorruptRecord:
        path = place.where(file)
        try:
            record = unsealed(data)
            record["pins"] = tuple(Pin(**pin) for pin in record["pins"])
            snapshot = Snapshot(**record)
            own_file = _file(snapshot.name)
        except (ValueError, KeyError, TypeError, AttributeError, StoreError) as error:
            return CorruptSnapshot(path, f"not a snapshot ({error})")
        if own_file != file:
            return CorruptSnapshot(path, f"it is the snapshot {snapshot.name!r}")
        return snapshot

    stems = {name: name.removeprefix(f"{_FOLDER}/").removesuffix(".json") for name in names}
    return read_records(place, [n for n, stem in stems.items() if _NAME.fullmatch(stem)], parse)


def _sound(snapshot: Snapshot | CorruptRecord) -> Snapshot:
    if isinstance(snapshot, CorruptRecord):
        raise snapshot
    return snapshot


class CorruptSnapshot(CorruptRecord):
    """A snapshot's file is not what was once written there."""

    def __init__(self, path: str, wrong: str) -> None:
        StoreError.__init__(
            self,
            f"{path} cannot be used: {wrong}. Put the file back from a backup, or delete it and "
            "with it the snapshot.",
        )
        self.path = path
