"""An artifact is a tree: named files, each a blob, listed in a blob of their own.

What belongs here: the form of that list, and reading the files it names.
"""

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from tda_dagster.store.blobs import BlobStore
from tda_dagster.store.canonical import canonical_json
from tda_dagster.store.disk import disk_errors
from tda_dagster.store.errors import CorruptArtifact, MissingArtifact, StoreError


@dataclass(frozen=True)
class Entry:
    """One file of an artifact: the digest of its bytes and how many there are."""

    digest: str
    size: int


class Artifact:
    """The files of one artifact, read-only. Every read is verified against its digest.

    Reads raise `CorruptArtifact` or `MissingArtifact` when the store is damaged, and `StoreError`
    for a name that the artifact does not have.
    """

    def __init__(
        self,
        digest: str,
        files: Mapping[str, Entry],
        blobs: BlobStore,
        maker: Callable[[], str] = lambda: "",
    ) -> None:
        self.digest = digest
        self.files = {name: files[name] for name in sorted(files)}
        self._blobs = blobs
        self._maker = maker

    @property
    def entries(self) -> list[str]:
        """Names of the files, relative to the artifact, with '/' between parts, sorted."""
        return list(self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())

    def has(self, name: str) -> bool:
        return name in self.files

    def path(self, name: str) -> Path:
        """A local path to read the file from. It is named by digest and has no suffix: use
        `export` for what wants a folder with proper names."""
        with self._naming(name):
            return self._blobs.local_file(self._entry(name).digest)

    def open(self, name: str) -> BinaryIO:
        """The file, opened for reading bytes."""
        return self.path(name).open("rb")

    def read_bytes(self, name: str) -> bytes:
        with self._naming(name):
            return self._blobs.read_bytes(self._entry(name).digest)

    def copy(self, name: str, path: Path) -> None:
        """Write the file to the new file `path`."""
        with self._naming(name):
            self._blobs.copy_out(self._entry(name).digest, path)

    def export(self, folder: Path) -> None:
        """Write all files below `folder`, which may exist; files of the same names are replaced,
        others left alone. Each file appears whole or not at all."""
        with disk_errors(folder):
            self.write_files(folder)

    def write_files(self, folder: Path) -> None:
        """The same, but what the operating system refuses is raised as it is, as OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        names: dict[str, list[str]] = defaultdict(list)
        for name, entry in self.files.items():
            names[entry.digest].append(name)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as unfinished:

            def write(digest: str) -> None:
                copy = Path(unfinished, digest)
                self.copy(names[digest][0], copy)
                for name in names[digest]:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                for name in names[digest][1:]:
                    shutil.copyfile(copy, f"{copy}.next")
                    Path(f"{copy}.next").replace(folder / name)
                copy.replace(folder / names[digest][0])

            self._blobs.each(write, names)

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Let errors about the file's blob say whose it is."""
        try:
            yield
        except (CorruptArtifact, MissingArtifact) as error:
            raise error.of(
                f"the file {name!r} of {of_artifact(self.digest, self._maker())}"
            ) from None

    def _entry(self, name: str) -> Entry:
        if name not in self.files:
            raise StoreError(
                f"artifact {self.digest[:12]}… has no file {name!r}; it has {self.entries}"
            )
        return self.files[name]


def read_artifact(blobs: BlobStore, digest: str, maker: Callable[[], str] = lambda: "") -> Artifact:
    """The artifact whose tree is the blob `digest`. Raises `StoreError` if that is no tree.

    `maker` is asked when a blob turns out to be damaged: it names the asset and partition that the
    artifact belongs to.
    """
    try:
        data = blobs.read_bytes(digest)
    except (CorruptArtifact, MissingArtifact) as error:
        raise error.of(f"the list of files of {of_artifact(digest, maker())}") from None
    try:
        return Artifact(digest, _parse(json.loads(data)), blobs, maker)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"the blob {digest} at {blobs.where(digest)} is not an artifact but a plain file "
            f"({error}); read it with read_bytes or local_file"
        ) from error


def of_artifact(digest: str, maker: str) -> str:
    """An artifact in words, with the asset that it belongs to where that is known."""
    return f"the artifact {digest[:12]}…" + (f" of {maker}" if maker else "")


def tree_bytes(files: Mapping[str, Entry]) -> bytes:
    """The canonical form of a tree."""
    entries = {name: {"digest": e.digest, "size": e.size} for name, e in files.items()}
    return canonical_json({"kind": "tree", "entries": entries})


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, path) of every file below `folder`, sorted by name; links to files count as files.

    Empty folders have no place in an artifact and are passed over. Raises `StoreError` if there is
    no file at all, or something that is neither file nor folder (a broken link, a linked folder).
    """
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path
        elif path.is_symlink() or not path.is_dir():
            raise StoreError(
                f"{path} is neither a file nor a folder (a broken link, or a link to a folder); "
                "an artifact holds files only"
            )
    if not found:
        raise StoreError(f"there is no file below {folder}; an artifact has at least one")
    yield from sorted(found.items())


def _parse(tree: Any) -> dict[str, Entry]:
    if tree["kind"] != "tree":
        raise ValueError(f"its kind is {tree['kind']!r}")
    for name in tree["entries"]:
        # An exported name must stay inside the folder it is exported to.
        if PurePosixPath(name).is_absolute() or set(name.split("/")) & {"", ".", ".."}:
            raise ValueError(f"unsafe file name {name!r}")
    return {
        name: Entry(str(entry["digest"]), int(entry["size"]))
        for name, entry in tree["entries"].items()
    }
