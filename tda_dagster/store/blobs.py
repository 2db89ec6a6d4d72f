"""Bytes named by their sha256, at `cas/sha256/<first two digits>/<digest>`.

What belongs here: putting blobs in, and never giving out one whose bytes are not those of its
name. What a blob means (a file, a tree) is not known here.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from tda_dagster.object_storage import side_by_side
from tda_dagster.store.cache import FileCache
from tda_dagster.store.canonical import digest_of, digest_of_file, require_digest
from tda_dagster.store.errors import CorruptArtifact, MissingArtifact
from tda_dagster.store.places import LocalPlace, Place, RemotePlace

BLOBS = "cas/sha256"

Item = TypeVar("Item")
Result = TypeVar("Result")


class BlobStore:
    """What local and remote blobs have in common; `open_blobs` picks the one for a place."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def put_bytes(self, data: bytes) -> str:
        """Store `data`; returns its digest."""
        with self._place.staging.folder() as folder:
            path = folder / "bytes"
            path.write_bytes(data)
            return self.take(path)[0]

    def put_file(self, path: Path) -> tuple[str, int]:
        """Store a copy of the file at `path`; returns its digest and size in bytes."""
        with self._place.staging.folder() as folder:
            copy = folder / "bytes"
            shutil.copyfile(path, copy)
            return self.take(copy)

    def take(self, path: Path) -> tuple[str, int]:
        """Store the file at `path`, which lies in this store's staging and is given up.

        A blob that exists already with the same size is left alone; one of another size is
        replaced. Returns digest and size in bytes.
        """
        digest, size = digest_of_file(path), path.stat().st_size
        if self._place.size(blob_name(digest)) != size:
            self._place.adopt(blob_name(digest), path)
        return digest, size

    def size(self, digest: str) -> int | None:
        """Size in bytes, None if the blob is not there. Says nothing about its content."""
        return self._place.size(blob_name(digest))

    def absent(self, sizes: Mapping[str, int]) -> list[str]:
        """Those of the digests in `sizes` that are not there with that size in bytes."""
        found = self.each(self.size, sizes)
        return [digest for digest, size in zip(sizes, found, strict=True) if size != sizes[digest]]

    def read_bytes(self, digest: str) -> bytes:
        """The blob's bytes. Raises `MissingArtifact` or `CorruptArtifact`."""

        def read() -> tuple[str, bytes]:
            data = self._place.read(blob_name(digest))
            return digest_of(data), data

        return self._genuine(digest, read)

    def check(self, digest: str) -> None:
        """Read the blob where it is kept. Raises `MissingArtifact` or `CorruptArtifact`."""

        def read() -> tuple[str, None]:
            running = hashlib.sha256()
            for piece in self._place.pieces(blob_name(digest)):
                running.update(piece)
            return running.hexdigest(), None

        self._genuine(digest, read)

    def copy_out(self, digest: str, path: Path) -> None:
        """Write the blob to the new file `path`, verified on the way.

        Raises `MissingArtifact` or `CorruptArtifact`, and then leaves no file.
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

    def local_file(self, digest: str) -> Path:
        """A local path of the verified blob, for reading only."""
        raise NotImplementedError

    def confirm(self, digest: str, size: int) -> None:
        """Make sure, before something refers to the blob, that it is there and is itself."""
        raise NotImplementedError

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
        raise CorruptArtifact(digest, self.where(digest), f"sha256 {found}")


class LocalBlobs(BlobStore):
    """Blobs in a folder: read where they lie, hashed again only when the file has changed."""

    def __init__(self, place: LocalPlace) -> None:
        super().__init__(place)
        self._folder = place
        self._verified: dict[str, tuple[int, int]] = {}

    def local_file(self, digest: str) -> Path:
        path = self._folder.path(blob_name(digest))
        if not path.is_file():
            raise MissingArtifact(digest, str(path))
        state = path.stat()
        stamp = (state.st_size, state.st_mtime_ns)
        if self._verified.get(digest) != stamp:
            self.check(digest)
            self._verified[digest] = stamp
        return path

    def vouch(self, digest: str) -> Path:
        """The path of a blob that was hashed on its way here, and need not be again."""
        path = self._folder.path(blob_name(digest))
        state = path.stat()
        self._verified[digest] = (state.st_size, state.st_mtime_ns)
        return path

    def confirm(self, digest: str, size: int) -> None:
        self.local_file(digest)


class RemoteBlobs(BlobStore):
    """Blobs in an object store, with verified copies of those in use in a local cache.

    What is put goes into the cache too: the next asset is likely to read it.
    """

    def __init__(self, place: RemotePlace, cache: FileCache) -> None:
        super().__init__(place)
        self._cache = cache
        self._copies = LocalBlobs(cache.place)

    def take(self, path: Path) -> tuple[str, int]:
        digest, size = super().take(path)
        self._cache.keep(blob_name(digest), path)
        self._copies.vouch(digest)
        return digest, size

    def copy_out(self, digest: str, path: Path) -> None:
        if (copy := self._copy(digest)) is None:
            super().copy_out(digest, path)
        else:
            shutil.copyfile(copy, path)

    def local_file(self, digest: str) -> Path:
        if (copy := self._copy(digest)) is not None:
            return copy
        with self._cache.place.staging.folder() as folder:
            super().copy_out(digest, folder / "bytes")
            self._cache.keep(blob_name(digest), folder / "bytes")
        return self._copies.vouch(digest)

    def confirm(self, digest: str, size: int) -> None:
        # The upload was proved when it was made; what can have happened since is a removal.
        if (found := self.size(digest)) is None:
            raise MissingArtifact(digest, self.where(digest))
        elif found != size:
            raise CorruptArtifact(digest, self.where(digest), f"{found} bytes instead of {size}")

    def _copy(self, digest: str) -> Path | None:
        """The verified copy in the cache, if there is one; a damaged one is thrown away."""
        if self._cache.lend(blob_name(digest)) is None:
            return None
        try:
            return self._copies.local_file(digest)
        except MissingArtifact:
            return None
        except CorruptArtifact as damaged:
            Path(damaged.path).unlink(missing_ok=True)
            return None


def open_blobs(
    place: LocalPlace | RemotePlace, cache_dir: Path, cache_bytes: int | None = None
) -> BlobStore:
    """The blobs at `place`; `cache_dir` is used for remote ones only, and for up to `cache_bytes`
    of copies (None: no limit)."""
    if isinstance(place, LocalPlace):
        return LocalBlobs(place)
    return RemoteBlobs(place, FileCache(cache_dir, BLOBS, cache_bytes))


def blob_name(digest: str) -> str:
    """Where the blob lies. Raises `StoreError` if `digest` is not a sha256."""
    require_digest(digest, "the blob asked for")
    return f"{BLOBS}/{digest[:2]}/{digest}"
