"""Where bytes are kept: a folder on a disk, or any object store that fsspec reaches.

What belongs here: reading, listing, replacing and creating named bytes so that a reader never sees
half of them. A name is a relative path with '/' between its parts. Nothing here knows what the
bytes mean.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from fsspec.implementations.local import LocalFileSystem

from tda_dagster.object_storage import (
    PATIENCE_S,
    TRANSFERS,
    RemoteFiles,
    open_url,
    side_by_side,
)
from tda_dagster.store.disk import disk_errors, require_folder
from tda_dagster.store.errors import StoreError
from tda_dagster.store.staging import Staging

_PIECE_BYTES = 1 << 20
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}


class Place(Protocol):
    """Named bytes. Every write is all or nothing.

    Any of these raises `ObjectStorageError` or `UnusableFolder` if the place cannot be reached or
    used.
    """

    staging: Staging
    transfers: int
    """How many transfers at a time are worth while."""
    fresh_s: float
    """For how many seconds a listing is as good as a new one."""
    readings: int
    """How often bytes are read before they are believed to be wrong where they are kept."""

    def where(self, name: str) -> str:
        """The path or URL of `name`, for messages."""

    def size(self, name: str) -> int | None:
        """Bytes under `name`, None if there is nothing."""

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes in order, in pieces; raises FileNotFoundError."""

    def read(self, name: str) -> bytes:
        """All of the bytes; raises FileNotFoundError."""

    def read_many(self, names: Iterable[str]) -> Mapping[str, bytes]:
        """The bytes of those of `names` that exist, in the order given."""

    def names(self, folder: str) -> list[str]:
        """All `.json` names at any depth below `folder`, sorted, whoever put them there."""

    def write(self, name: str, data: bytes) -> None:
        """Put `data` under `name`, in place of what was there."""

    def create(self, name: str, data: bytes) -> bool:
        """Put `data` under `name` unless something is there; says whether it did."""

    def adopt(self, name: str, path: Path) -> None:
        """Put the file at `path`, made in `staging`, under `name`; it may be gone afterwards."""

    def remove(self, name: str) -> None:
        """Remove what is under `name`, if anything is."""


class LocalPlace:
    """A folder. Files appear by rename or hard link from `<root>/tmp`, never by being written."""

    transfers = 1
    fresh_s = 0.0
    readings = 1

    def __init__(self, root: Path) -> None:
        self._root = root
        self.staging = Staging(root / "tmp")

    def path(self, name: str) -> Path:
        return self._root / name

    def where(self, name: str) -> str:
        return str(self.path(name))

    def size(self, name: str) -> int | None:
        try:
            with disk_errors(self._root):
                return self.path(name).stat().st_size
        except FileNotFoundError:
            return None

    def pieces(self, name: str) -> Iterator[bytes]:
        with disk_errors(self._root), self.path(name).open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece

    def read(self, name: str) -> bytes:
        with disk_errors(self._root):
            return self.path(name).read_bytes()

    def read_many(self, names: Iterable[str]) -> Mapping[str, bytes]:
        found = {}
        for name in names:
            try:
                found[name] = self.read(name)
            except FileNotFoundError:
                continue
        return found

    def names(self, folder: str) -> list[str]:
        return sorted(name for name, _ in self.files(folder) if name.endswith(".json"))

    def files(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        """Name and state of every file at any depth below `folder`; what vanishes meanwhile is
        left out. A folder that cannot be read is an error: what is in it is not gone."""
        with disk_errors(self._root):
            waiting = [self.path(folder)]
            while waiting:
                try:
                    entries = list(os.scandir(waiting.pop()))
                except FileNotFoundError:
                    continue
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                        continue
                    try:
                        state = entry.stat()
                    except FileNotFoundError:
                        continue
                    if stat.S_ISREG(state.st_mode):
                        yield Path(entry.path).relative_to(self._root).as_posix(), state

    def write(self, name: str, data: bytes) -> None:
        with self.staging.folder() as folder, disk_errors(self._root):
            _written(folder, data).replace(self._parented(name))

    def create(self, name: str, data: bytes) -> bool:
        with self.staging.folder() as folder, disk_errors(self._root):
            staged, path = _written(folder, data), self._parented(name)
            try:
                os.link(staged, path)  # unlike rename, fails if the name is taken
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                raise StoreError(
                    f"cannot create {path}: {error.strerror}. The store needs a filesystem with "
                    "hard links; put its root on another disk or on an object store."
                ) from error
            _flush(path.parent)
        return True

    def adopt(self, name: str, path: Path) -> None:
        with disk_errors(self._root):
            path.chmod(0o444)  # what is named by its content must not be written to
            _flush(path)
            path.replace(self._parented(name))

    def remove(self, name: str) -> None:
        with disk_errors(self._root):
            self.path(name).unlink(missing_ok=True)

    def _parented(self, name: str) -> Path:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class RemotePlace:
    """A prefix in an object store, where a finished upload appears all at once.

    Local work is staged in `cache_dir`.
    """

    fresh_s = 10.0
    readings = 3

    def __init__(self, files: RemoteFiles, root: str, cache_dir: Path) -> None:
        self._files = files
        self._root = root.rstrip("/")
        self.transfers = files.transfers
        self.staging = Staging(cache_dir / "tmp")

    def where(self, name: str) -> str:
        return self._files.where(self._path(name))

    def size(self, name: str) -> int | None:
        found = self._files.stat(self._path(name))
        return None if found is None else found.size

    def pieces(self, name: str) -> Iterator[bytes]:
        return self._files.pieces(self._path(name))

    def read(self, name: str) -> bytes:
        return self._files.read(self._path(name))

    def read_many(self, names: Iterable[str]) -> Mapping[str, bytes]:
        def read(name: str) -> bytes | None:
            try:
                return self.read(name)
            except FileNotFoundError:
                return None

        wanted = list(names)
        answers = side_by_side(read, wanted, self.transfers)
        return {name: data for name, data in zip(wanted, answers, strict=True) if data is not None}

    def names(self, folder: str) -> list[str]:
        paths = self._files.find(self._path(folder))
        return sorted(path[len(self._root) + 1 :] for path in paths if path.endswith(".json"))

    def write(self, name: str, data: bytes) -> None:
        self._files.put(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        return self._files.create(self._path(name), data)

    def adopt(self, name: str, path: Path) -> None:
        self._files.upload(self._path(name), path)

    def holds(self, name: str, path: Path) -> bool:
        """Whether the bytes under `name` are those of the local file. The server's MD5 is believed
        if it fits; where it has none or another, the bytes are read."""
        return self._files.holds(self._path(name), path)

    def remove(self, name: str) -> None:
        self._files.remove(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def open_place(
    root: str, cache_dir: Path, transfers: int = TRANSFERS, patience_s: float = PATIENCE_S
) -> LocalPlace | RemotePlace:
    """The place at `root`, a path or any URL fsspec knows; `transfers` and `patience_s` are as in
    `tda_dagster.object_storage.open_url`.

    Raises `StoreError` if no installed filesystem answers to the URL, `UnusableFolder` for a path
    to something that is no folder.
    """
    try:
        files, path = open_url(root, transfers=transfers, patience_s=patience_s)
    except (ValueError, ImportError) as error:
        raise StoreError(
            f"the store's root {root!r} cannot be opened: {error}. Use a local path, s3://bucket/"
            "prefix, or another URL whose fsspec package is installed."
        ) from error
    if isinstance(files.fs, LocalFileSystem):
        require_folder(Path(path))
        return LocalPlace(Path(path))
    return RemotePlace(files, path, cache_dir)


def _written(folder: Path, data: bytes) -> Path:
    path = folder / "bytes"
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
