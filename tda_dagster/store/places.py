"""Where bytes are kept: a folder on a disk, or any object store that fsspec reaches.

What belongs here: reading, listing, replacing and creating named bytes so that a reader never sees
half of them. A name is a relative path with '/' between its parts. Nothing here knows what the
bytes mean.
"""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from tda_dagster.store.errors import StoreError
from tda_dagster.store.staging import Staging

# S3 answers 409 while another create of the same key is under way.
_CREATE_WAITS_S = (0.05, 0.2, 0.8)


class Place(Protocol):
    """Named bytes. Every write is all or nothing."""

    staging: Staging
    transfers: int
    """How many transfers at a time are worth while."""

    def where(self, name: str) -> str:
        """The path or URL of `name`, for messages."""

    def size(self, name: str) -> int | None:
        """Bytes under `name`, None if there is nothing."""

    def open(self, name: str) -> BinaryIO:
        """A stream of the bytes; raises FileNotFoundError."""

    def read(self, name: str) -> bytes:
        """All of the bytes; raises FileNotFoundError."""

    def read_many(self, names: Iterable[str]) -> Mapping[str, bytes]:
        """The bytes of those of `names` that exist, in the order given."""

    def names(self, folder: str) -> list[str]:
        """All `.json` names at any depth below `folder`, sorted."""

    def write(self, name: str, data: bytes) -> None:
        """Put `data` under `name`, in place of what was there."""

    def create(self, name: str, data: bytes) -> bool:
        """Put `data` under `name` unless something is there; says whether it did."""

    def adopt(self, name: str, path: Path) -> None:
        """Put the file at `path`, made in `staging`, under `name`; it may be gone afterwards."""


class LocalPlace:
    """A folder. Files appear by rename or hard link from `<root>/tmp`, never by being written."""

    transfers = 1

    def __init__(self, root: Path) -> None:
        self._root = root
        self.staging = Staging(root / "tmp")

    def path(self, name: str) -> Path:
        return self._root / name

    def where(self, name: str) -> str:
        return str(self.path(name))

    def size(self, name: str) -> int | None:
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        return self.path(name).open("rb")

    def read(self, name: str) -> bytes:
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
        below = self.path(folder).rglob("*.json")
        return sorted(path.relative_to(self._root).as_posix() for path in below)

    def write(self, name: str, data: bytes) -> None:
        with self.staging.folder() as folder:
            _written(folder, data).replace(self._parented(name))

    def create(self, name: str, data: bytes) -> bool:
        with self.staging.folder() as folder:
            staged, path = _written(folder, data), self._parented(name)
            try:
                os.link(staged, path)  # unlike rename, fails if the name is taken
            except FileExistsError:
                return False
            except OSError as error:
                raise StoreError(
                    f"cannot create {path}: {error.strerror}. The store needs a filesystem with "
                    "hard links; put its root on another disk or on an object store."
                ) from error
            _flush(path.parent)
        return True

    def adopt(self, name: str, path: Path) -> None:
        path.chmod(0o444)  # what is named by its content must not be written to
        _flush(path)
        path.replace(self._parented(name))

    def _parented(self, name: str) -> Path:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class RemotePlace:
    """A prefix in an object store, where a finished upload appears all at once.

    `create` relies on conditional writes (`If-None-Match: *` on S3). Local work is staged in
    `cache_dir`.
    """

    transfers = 16

    def __init__(self, fs: Any, root: str, cache_dir: Path) -> None:
        self._fs = fs
        self._root = root.rstrip("/")
        self.staging = Staging(cache_dir / "tmp")

    def where(self, name: str) -> str:
        return cast(str, self._fs.unstrip_protocol(self._path(name)))

    def size(self, name: str) -> int | None:
        try:
            return cast(int, self._fs.info(self._path(name))["size"])
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self._fs.open(self._path(name), "rb"))

    def read(self, name: str) -> bytes:
        return cast(bytes, self._fs.cat_file(self._path(name)))

    def read_many(self, names: Iterable[str]) -> Mapping[str, bytes]:
        paths = {name: self._path(name) for name in names}
        answers = self._fs.cat(list(paths.values()), on_error="return") if paths else {}
        found: dict[str, bytes] = {}
        for name, path in paths.items():
            match answers[path]:
                case FileNotFoundError():
                    continue
                case BaseException() as error:
                    raise error
                case data:
                    found[name] = data
        return found

    def names(self, folder: str) -> list[str]:
        paths = self._fs.find(self._path(folder))
        return sorted(path[len(self._root) + 1 :] for path in paths if path.endswith(".json"))

    def write(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(self._path(name), data)
        self._expect(name, len(data))

    def create(self, name: str, data: bytes) -> bool:
        for wait_s in _CREATE_WAITS_S:
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except OSError:
                # Servers word "already there" differently, so ask rather than read the error.
                if self.size(name) is not None:
                    return False
                time.sleep(wait_s)
            else:
                return True
        self._fs.pipe_file(self._path(name), data, mode="create")
        return True

    def adopt(self, name: str, path: Path) -> None:
        self._fs.put_file(str(path), self._path(name))
        self._expect(name, path.stat().st_size)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _expect(self, name: str, size: int) -> None:
        if (found := self.size(name)) != size:
            raise StoreError(
                f"{self.where(name)} has {found} bytes after an upload of {size}; run it again, "
                "and check the object store's quota and logs if it happens again."
            )


def open_place(root: str, cache_dir: Path) -> LocalPlace | RemotePlace:
    """The place at `root`, a path or any URL fsspec knows, with the credentials it finds itself.

    Raises `StoreError` if no installed filesystem answers to the URL.
    """
    try:
        # A cached listing would hide what other processes write.
        fs, path = url_to_fs(root, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise StoreError(
            f"the store's root {root!r} cannot be opened: {error}. Use a local path, s3://bucket/"
            "prefix, or another URL whose fsspec package is installed."
        ) from error
    if isinstance(fs, LocalFileSystem):
        return LocalPlace(Path(path))
    return RemotePlace(fs, path, cache_dir)


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
