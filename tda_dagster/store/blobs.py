"""Bytes named by their sha256, at `cas/sha256/<first two digits>/<digest>`.

What belongs here: putting blobs in, and never giving out one whose bytes are not those of its
name. What a blob means (a file, a tree) is not known here.
"""

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tda_dagster.object_storage import side_by_side
from tda_dagster.store.cache import FileCache
from tda_dagster.store.canonical import digest_of, digest_of_file, is_digest, require_digest
from tda_dagster.store.damage import DamageNotes
from tda_dagster.store.disk import FullDisk, UnusableFolder, disk_errors
from tda_dagster.store.errors import CorruptArtifact, MissingArtifact
from tda_dagster.store.hashed import file_digest, vouch
from tda_dagster.store.places import LocalPlace, Place, RemotePlace

BLOBS = "cas/sha256"

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class BlobStore:
    """What local and remote blobs have in common; `open_blobs` picks the one for a place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._damaged = DamageNotes(place)

    def put_bytes(self, data: bytes) -> str:
        """Store `data`; returns its digest."""
        with self._place.staging.folder() as folder:
            path = folder / "bytes"
            with disk_errors(folder.parent):
                path.write_bytes(data)
            return self.take(path)[0]

    def put_file(self, path: Path) -> tuple[str, int]:
        """Store a copy of the file at `path`; returns its digest and size in bytes."""
        with self._place.staging.folder() as folder:
            copy = folder / "bytes"
            with disk_errors(folder.parent):
                shutil.copyfile(path, copy)
            return self.take(copy)

    def take(self, path: Path) -> tuple[str, int]:
        """Store the file at `path`, which lies in this store's staging and is given up.

        A blob that exists already and is whole is left alone; a damaged one is replaced. Returns
        digest and size in bytes.
        """
        with disk_errors(path.parent):
            digest, size = digest_of_file(path), path.stat().st_size
        if not self._holds(digest, path):
            self._place.adopt(blob_name(digest), path)
            self._damaged.clear(digest)
        return digest, size

    def size(self, digest: str) -> int | None:
        """Size in bytes, None if the blob is not there. Says nothing about its content."""
        return self._place.size(blob_name(digest))

    def remove(self, digest: str) -> None:
        """Remove the blob, if it is there."""
        self._place.remove(blob_name(digest))
        self._damaged.clear(digest)

    def lacking(self, sizes: Mapping[str, int]) -> list[str]:
        """Those of the digests in `sizes` that are not there with that size in bytes, and those
        that were found damaged and are so still."""

        def lacks(digest: str) -> bool:
            return self.size(digest) != sizes[digest] or not self._recovered(digest)

        wanted = list(sizes)
        return [d for d, lost in zip(wanted, self.each(lacks, wanted), strict=True) if lost]

    def read_bytes(self, digest: str) -> bytes:
        """The blob's bytes. Raises `MissingArtifact` or `CorruptArtifact`."""

        def read() -> tuple[str, bytes]:
            data = self._place.read(blob_name(digest))
            return digest_of(data), data

        return self._genuine(digest, read)

    def check(self, digest: str) -> None:
        """Read the blob where it is kept. Raises `MissingArtifact` or `CorruptArtifact`, and notes
        a damaged blob in the store, so that what needs it is made again when it is asked for."""

        def read() -> tuple[str, None]:
            running = hashlib.sha256()
            for piece in self._place.pieces(blob_name(digest)):
                running.update(piece)
            return running.hexdigest(), None

        self._genuine(digest, read)
        self._damaged.clear(digest)

    def copy_out(self, digest: str, path: Path) -> None:
        """Write the blob to the new file `path`, verified on the way.

        Raises `MissingArtifact` or `CorruptArtifact`, and then leaves no file, and OSError where
        `path` cannot be written.
        """
        with path.open("xb") as sink:

            def copy() -> tuple[str, None]:
                running = hashlib.sha256()
                sink.seek(0)
                sink.truncate()
                for piece in self._place.pieces(blob_name(digest)):
                    running.update(piece)
                    sink.write(piece)
                return running.hexdigest(), None

            try:
                self._genuine(digest, copy)
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def where(self, digest: str) -> str:
        """The path or URL of the blob, for messages."""
        return self._place.where(blob_name(digest))

    def each(self, do: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """`do` for every item, as many at a time as the place can bear; results in order."""
        return list(side_by_side(do, items, self._place.transfers))

    def damaged_copies(self) -> Iterator[Path]:
        """Files of the local cache that do not hold the bytes of their names."""
        yield from ()

    def local_file(self, digest: str) -> Path:
        """A local path of the verified blob, for reading only."""
        raise NotImplementedError

    def confirm(self, digest: str, size: int) -> None:
        """Make sure, before something refers to the blob, that it is there and is itself."""
        raise NotImplementedError

    def _holds(self, digest: str, path: Path) -> bool:
        """Whether the blob is there and whole. The file at `path` has the bytes that it must
        have."""
        raise NotImplementedError

    def _recovered(self, digest: str) -> bool:
        """Whether a blob is whole, as far as it was ever found damaged."""
        if digest not in self._damaged:
            return True
        try:
            self.check(digest)
        except (CorruptArtifact, MissingArtifact):
            return False
        return True

    def _genuine(self, digest: str, read: Callable[[], tuple[str, Result]]) -> Result:
        """What `read` returns beside the digest of what it read, once that is the right one."""
        found = ""
        for _ in range(self._place.readings):
            try:
                found, result = read()
            except FileNotFoundError:
                raise MissingArtifact(digest, self.where(digest)) from None
            if found == digest:
                return result
        raise self._corrupt(digest, f"sha256 {found}")

    def _corrupt(self, digest: str, found: str) -> CorruptArtifact:
        self._damaged.add(digest, found)
        return CorruptArtifact(digest, self.where(digest), found)


class LocalBlobs(BlobStore):
    """Blobs in a folder: read where they lie, hashed once per process and when a file changes."""

    def __init__(self, place: LocalPlace) -> None:
        super().__init__(place)
        self._folder = place

    def take(self, path: Path) -> tuple[str, int]:
        digest, size = super().take(path)
        if not path.exists():  # it was adopted
            vouch(self._folder.path(blob_name(digest)), digest)
        return digest, size

    def local_file(self, digest: str) -> Path:
        path = self._folder.path(blob_name(digest))
        try:
            with disk_errors(path):
                found = file_digest(path)
        except FileNotFoundError:
            raise MissingArtifact(digest, str(path)) from None
        if found != digest:
            raise self._corrupt(digest, f"sha256 {found}")
        return path

    def confirm(self, digest: str, size: int) -> None:
        self.local_file(digest)

    def _holds(self, digest: str, path: Path) -> bool:
        # A blob of another size need not be hashed.
        if self.size(digest) != path.stat().st_size:
            return False
        try:
            self.local_file(digest)
        except (CorruptArtifact, MissingArtifact):
            return False
        self._damaged.clear(digest)
        return True


class RemoteBlobs(BlobStore):
    """Blobs in an object store, with verified copies of those in use in a local cache.

    What is put goes into the cache too: the next asset is likely to read it.
    """

    def __init__(self, place: RemotePlace, cache: FileCache) -> None:
        super().__init__(place)
        self._remote = place
        self._cache = cache

    def take(self, path: Path) -> tuple[str, int]:
        digest, size = super().take(path)
        with suppress(UnusableFolder):  # the blob is safe: what is missing is a copy
            self._cache.keep(blob_name(digest), path)
            vouch(self._cache.place.path(blob_name(digest)), digest)
        return digest, size

    def copy_out(self, digest: str, path: Path) -> None:
        if (copy := self._copy(digest)) is None:
            super().copy_out(digest, path)
        else:
            shutil.copyfile(copy, path)

    def damaged_copies(self) -> Iterator[Path]:
        for name in self._cache.names():
            path = self._cache.place.path(name)
            with suppress(FileNotFoundError), disk_errors(path):
                if (digest := digest_in(name)) is not None and file_digest(path) != digest:
                    yield path

    def local_file(self, digest: str) -> Path:
        if (copy := self._copy(digest)) is not None:
            return copy
        try:
            self._fetch(digest)
        except FullDisk:
            size = self.size(digest)
            if size is None or not self._cache.make_room(size):
                raise
            self._fetch(digest)
        path = self._cache.place.path(blob_name(digest))
        vouch(path, digest)
        return path

    def confirm(self, digest: str, size: int) -> None:
        # The upload was proved when it was made; what can have happened since is a removal.
        if (found := self.size(digest)) is None:
            raise MissingArtifact(digest, self.where(digest))
        elif found != size:
            raise self._corrupt(digest, f"{found} bytes instead of {size}")

    def _holds(self, digest: str, path: Path) -> bool:
        if digest in self._damaged:  # a server may go on giving the tag of what it once had
            return False
        return self._remote.holds(blob_name(digest), path)

    def _fetch(self, digest: str) -> None:
        place = self._cache.place
        with place.staging.folder() as folder, disk_errors(place.path(BLOBS)):
            super().copy_out(digest, folder / "bytes")
            self._cache.keep(blob_name(digest), folder / "bytes")

    def _copy(self, digest: str) -> Path | None:
        """The verified copy in the cache, if there is one; a damaged one is thrown away."""
        path = self._cache.lend(blob_name(digest))
        if path is None:
            return None
        try:
            with disk_errors(path):
                if file_digest(path) == digest:
                    return path
                _log.warning("%s is damaged; the blob is fetched from the store again", path)
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        return None


def open_blobs(
    place: LocalPlace | RemotePlace, cache_dir: Path, cache_bytes: int | None = None
) -> BlobStore:
    """The blobs at `place`; `cache_dir` is used for remote ones only, and for up to `cache_bytes`
    of copies (None: no limit)."""
    if isinstance(place, LocalPlace):
        return LocalBlobs(place)
    return RemoteBlobs(place, FileCache(cache_dir, BLOBS, cache_bytes))


def digest_in(name: str) -> str | None:
    """The digest of the blob that lies under `name`; None for files that others have put there,
    such as those of a file manager."""
    digest = name.rpartition("/")[2]
    return digest if is_digest(digest) and name == blob_name(digest) else None


def blob_name(digest: str) -> str:
    """Where the blob lies. Raises `StoreError` if `digest` is not a sha256."""
    require_digest(digest, "the blob asked for")
    return f"{BLOBS}/{digest[:2]}/{digest}"
