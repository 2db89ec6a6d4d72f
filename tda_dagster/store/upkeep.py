"""What those who look after a whole store need beyond its everyday interface: its parts, and what
lies in it since when.

What belongs here: looking. What may be removed is decided in `collection` and `snapshots`.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tda_dagster.store.artifacts import ArtifactStore
from tda_dagster.store.blobs import BlobStore
from tda_dagster.store.places import LocalPlace, Place, RemotePlace
from tda_dagster.store.plain_folders import PlainFolders
from tda_dagster.store.refs import RefBook

# What filesystems call the time of the last write.
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")


class Parts(NamedTuple):
    """What an `ArtifactStore` is made of."""

    place: Place
    blobs: BlobStore
    refs: RefBook
    copies: PlainFolders


def parts(store: ArtifactStore) -> Parts:
    """The parts of `store`."""
    return Parts(store._place, store._blobs, store._refs, store._folders)


@dataclass(frozen=True)
class Stored:
    """Named bytes: their size, and when they were last written (None: the filesystem will not
    say)."""

    name: str
    size_bytes: int
    written: datetime | None


def inventory(place: Place, folder: str) -> list[Stored]:
    """Everything at any depth below `folder`, sorted by name; what vanishes meanwhile is left
    out."""
    if isinstance(place, LocalPlace):
        local = [
            Stored(name, state.st_size, datetime.fromtimestamp(state.st_mtime, UTC))
            for name, state in place.files(folder)
        ]
        return sorted(local, key=lambda item: item.name)
    assert isinstance(place, RemotePlace)
    cut = len(place._root) + 1
    found = place._files.find(place._path(folder))
    stored = [Stored(path[cut:], int(info["size"]), _written(info)) for path, info in found.items()]
    return sorted(stored, key=lambda item: item.name)


def last_written(place: Place, name: str) -> datetime | None:
    """When `name` was last written; None if it is gone or the filesystem will not say."""
    with suppress(FileNotFoundError):
        if isinstance(place, LocalPlace):
            return datetime.fromtimestamp(place.path(name).stat().st_mtime, UTC)
        assert isinstance(place, RemotePlace)
        return _written(place._files.info(place._path(name)))
    return None


def _written(info: Mapping[str, Any]) -> datetime | None:
    for key in _TIMES:
        match info.get(key):
            case datetime() as moment:
                return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            case int() | float() as seconds:
                return datetime.fromtimestamp(seconds, UTC)
    return None
