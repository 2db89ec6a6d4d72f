"""Artifacts as plain folders with proper names, for libraries that open folders.

What belongs here: making such copies in a cache, and never giving out one that differs from its
artifact. A copy may be deleted at any time; what somebody changes in it is undone.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tda_dagster.object_storage import side_by_side
from tda_dagster.store.disk import disk_errors
from tda_dagster.store.hashed import file_digest, vouch
from tda_dagster.store.staging import Staging
from tda_dagster.store.trees import Artifact

_HASHERS = min(4, os.cpu_count() or 1)
# Network filesystems keep removed files that are still open under such names.
_STILL_OPEN = ".nfs"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Difference:
    """What keeps a folder from being the copy of an artifact: names of files that are damaged or
    missing, and paths of what does not belong there."""

    wrong: tuple[str, ...]
    strange: tuple[Path, ...]


class PlainFolders:
    """Copies of artifacts at `<root>/<first 16 digits of the digest>`.

    Every file is hashed when a process first asks for the folder, and again when it has changed.
    Processes may share the root: a new copy appears whole, and a damaged file is replaced whole.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.staging = Staging(root / "tmp")

    def folder(self, artifact: Artifact) -> Path:
        """A folder that holds the files of `artifact` and nothing else, for reading only.

        Raises `UnusableFolder` if it cannot be written, `CorruptArtifact` or `MissingArtifact` if
        the artifact itself is damaged.
        """
        folder = self._root / _name(artifact.digest)
        with disk_errors(self._root):
            if folder.is_symlink() or not folder.is_dir():
                self._build(artifact, folder)
            found = _compare(folder, artifact)
            if found.wrong:
                _log.warning(
                    "%s: %d of %d files are damaged or missing (%s); they are written again from "
                    "the store",
                    folder, len(found.wrong), len(artifact.files), found.wrong[0],
                )  # fmt: skip
            self._mend(artifact, folder, found)
        return folder

    def damage(self, artifacts: Mapping[str, Artifact]) -> Iterator[Path]:
        """The damaged and the missing files of all folders there are. `artifacts` holds the known
        ones by digest; folders of others are passed over."""
        by_name = {_name(digest): artifact for digest, artifact in artifacts.items()}
        with disk_errors(self._root):
            for folder in sorted(self._root.iterdir()) if self._root.is_dir() else ():
                artifact = by_name.get(folder.name)
                if artifact is not None and folder.is_dir() and not folder.is_symlink():
                    found = _compare(folder, artifact)
                    yield from (folder / name for name in found.wrong)

    def _build(self, artifact: Artifact, folder: Path) -> None:
        with self.staging.folder() as unfinished:
            copy = unfinished / "copy"
            artifact.write_files(copy)
            for name in artifact.files:
                (copy / name).chmod(0o444)
            if folder.is_symlink() or folder.is_file():
                with suppress(OSError):  # another process does the same
                    folder.unlink()
            try:
                copy.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
                return  # another process was faster; its copy is compared like any other
        for name, entry in artifact.files.items():
            vouch(folder / name, entry.digest)

    def _mend(self, artifact: Artifact, folder: Path, found: _Difference) -> None:
        for path in found.strange:
            _log.info("%s does not belong to the copy of the artifact; it is removed", path)
            with suppress(FileNotFoundError):  # another process does the same
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        for name in found.wrong:
            with self.staging.folder() as unfinished:
                copy, path = unfinished / "file", folder / name
                artifact.copy(name, copy)
                copy.chmod(0o444)
                path.parent.mkdir(parents=True, exist_ok=True)
                copy.replace(path)
            vouch(path, artifact.files[name].digest)


def _name(digest: str) -> str:
    return digest[:16]


def _compare(folder: Path, artifact: Artifact) -> _Difference:
    folders = {str(parent) for name in artifact.files for parent in Path(name).parents}
    candidates, strange, waiting = list[str](), list[Path](), [folder]
    while waiting:
        try:
            entries = sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name)
        except FileNotFoundError:  # somebody is deleting the cache
            continue
        for entry in entries:
            path = Path(entry.path)
            name = path.relative_to(folder).as_posix()
            if entry.is_dir(follow_symlinks=False) and name in folders:
                waiting.append(path)
            elif entry.is_file(follow_symlinks=False) and name in artifact.files:
                candidates.append(name)
            elif not entry.name.startswith(_STILL_OPEN):
                strange.append(path)

    def is_right(name: str) -> bool:
        try:
            return file_digest(folder / name) == artifact.files[name].digest
        except FileNotFoundError:
            return False

    verdicts = zip(candidates, side_by_side(is_right, candidates, _HASHERS), strict=True)
    right = {name for name, is_so in verdicts if is_so}
    wrong = tuple(name for name in artifact.files if name not in right)
    return _Difference(wrong, tuple(strange))
