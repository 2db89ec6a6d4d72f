"""Bytes named by their sha256, at `cas/sha256/<first two digits>/<digest>`.

What belongs here: putting blobs in, and never giving out one whose bytes are not those of its
name. What a blob means (a file, a tree) is not known here.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

from tda_dagster.store.canonical import digest_of, digest_of_file, require_digest
from tda_dagster.store.errors import CorruptArtifact, MissingArtifact
from tda_dagster.store.places import LocalPlace, Place, RemotePlace

_PIECE_BYTES = 1 << 20

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
        name = blob_name(digest)
        try:
            data = self._place.read(name)
        except FileNotFoundError:
            raise MissingArtifact(digest, self.where(digest)) from None
        self._expect(digest, digest_of(data))
        return data

    def check(self, digest: str) -> None:
        """Read the blob where it is kept. Raises `MissingArtifact` or `CorruptArtifact`."""
        with self._open(digest) as source:
            running = hashlib.sha256()
            for piece in _pieces(source):
                running.update(piece)
        self._expect(digest, running.hexdigest())

    def copy_out(self, digest: str, path: Path) -> None:
        """Write the blob to the new file `path`, verified on the way.

        Raises `MissingArtifact` or `CorruptArtifact`, and then leaves no file.
        """
        with self._open(digest) as source:
            running = hashlib.sha256()
            try:
                with path.open("xb") as sink:
                    for piece in _pieces(source):
                        running.update(piece)
                        sink.write(piece)
                self._expect(digest, running.hexdigest())
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def where(self, digest: str) -> str:
        """The path or URL of the blob, for messages."""
        return self._place.where(blob_name(digest))

    def each(self, do: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """`do` for every item, as many at a time as the place can bear; results in order."""
        if self._place.transfers == 1:
            return [do(item) for item in items]
        with ThreadPoolExecutor(self._place.transfers) as pool:
            return list(pool.map(do, items))

    def local_file(self, digest: str) -> Path:
        """A local path of the verified blob, for reading only."""
        raise NotImplementedError

    def confirm(self, digest: str, size: int) -> None:
        """Make sure, before something refers to the blob, that it is there and is itself."""
        raise NotImplementedError

    def _open(self, digest: str) -> BinaryIO:
        try:
            return self._place.open(blob_name(digest))
        except FileNotFoundError:
            raise MissingArtifact(digest, self.where(digest)) from None

    def _expect(self, digest: str, found: str) -> None:
        if found != digest:
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

    def confirm(self, digest: str, size: int) -> None:
        self.local_file(digest)


class RemoteBlobs(BlobStore):
    """Blobs in an object store, with verified copies of those in use in a local cache."""

    def __init__(self, place: RemotePlace, cache: LocalPlace) -> None:
        super().__init__(place)
        self._folder = cache
        self._cache = LocalBlobs(cache)

    def local_file(self, digest: str) -> Path:
        try:
            return self._cache.local_file(digest)
        except MissingArtifact:
            self._download(digest)
        except CorruptArtifact as damaged:
            Path(damaged.path).unlink(missing_ok=True)
            self._download(digest)
        return self._cache.local_file(digest)

    def confirm(self, digest: str, size: int) -> None:
        # Reading back what was just sent would double the traffic; downloads are verified anyway.
        if (found := self.size(digest)) is None:
            raise MissingArtifact(digest, self.where(digest))
        elif found != size:
            raise CorruptArtifact(digest, self.where(digest), f"{found} bytes instead of {size}")

    def _download(self, digest: str) -> None:
        with self._folder.staging.folder() as folder:
            self.copy_out(digest, folder / "bytes")
            self._folder.adopt(blob_name(digest), folder / "bytes")


def open_blobs(place: LocalPlace | RemotePlace, cache_dir: Path) -> BlobStore:
    """The blobs at `place`; `cache_dir` is used for remote ones only."""
    if isinstance(place, LocalPlace):
        return LocalBlobs(place)
    return RemoteBlobs(place, LocalPlace(cache_dir))


def blob_name(digest: str) -> str:
    """Where the blob lies. Raises `StoreError` if `digest` is not a sha256."""
    require_digest(digest, "the blob asked for")
    return f"cas/sha256/{digest[:2]}/{digest}"


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while piece := source.read(_PIECE_BYTES):
        yield piece
