"""What a disk or a folder refuses, said in one line that names the folder and what to do.

What belongs here: the words for errors of the operating system. Nothing here reads or writes.
"""

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tda_dagster.store.errors import StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT}
# How libraries that do not raise OSError repeat what the system said.
_FULL_TEXT = re.compile(r"No space left on device|Disk quota exceeded|os error (?:28|122)\b")

_ROOM = (
    "Free some space there (`tda gc --delete` removes what nothing needs) or choose another disk, "
    "then run the same command again; what is finished stays"
)
_REASONS = {
    errno.ENOSPC: f"the disk is full. {_ROOM}",
    errno.EDQUOT: f"the disk quota is used up. {_ROOM}",
    errno.EROFS: "the disk is read-only. Mount it for writing, or choose another folder",
    errno.EACCES: "access is denied. Give this user the right to read and write there, or choose "
    "another folder",
    errno.EPERM: "the system does not permit it. Give this user the right to read and write there, "
    "or choose another folder",
    errno.EFBIG: "a file would become larger than is allowed. Raise the limit (ulimit -f), or "
    "choose a disk that takes large files",
    errno.EMFILE: "too many files are open. Raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine. Close other programs",
    errno.EIO: "the disk reports an error. Check it, and put damaged files back from a backup",
    errno.ENAMETOOLONG: "the path is too long. Choose a folder with a shorter path",
}


class UnusableFolder(StoreError):
    """A folder cannot be read or written as it should: which one, why, and what to do."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder}: {reason}.")
        self.folder = folder


class FullDisk(UnusableFolder):
    """There is no room for what was to be written to a folder."""


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Raise `UnusableFolder` for what the operating system refuses in the block.

    `folder` is named unless the system names a path. FileNotFoundError comes through: it answers
    whether something is there.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _told(error, folder) from error


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Raise `FullDisk` if the block fails because a disk is full, whoever says so; other errors
    come through. `folder` is where the block writes."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # libraries wrap what the system says in errors of their own
        if not _is_full(error):
            raise
        raise FullDisk(_fullest(folder), _REASONS[errno.ENOSPC]) from error


def require_folder(path: Path) -> None:
    """Raise `UnusableFolder` if `path` is, or lies below, something that is no folder."""
    with disk_errors(path):
        if (obstacle := _obstacle(path)) is not None:
            raise obstacle


def _told(error: OSError, folder: Path) -> UnusableFolder:
    # Of two paths, the second is where something was to be put.
    named = error.filename2 or error.filename
    path = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else folder
    if error.errno in {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP}:
        try:
            obstacle = _obstacle(path)
        except OSError:
            obstacle = None
        if obstacle is not None:
            return obstacle
    if error.errno in _FULL:
        return FullDisk(folder, _REASONS[error.errno])
    if error.errno in _REASONS:
        # What does not exist yet cannot be put right; the folder that it should be in can.
        path = next((p for p in (path, *path.parents) if os.path.exists(p)), path)  # noqa: PTH110
    reason = _REASONS.get(error.errno or 0) or f"it cannot be used ({error.strerror or error})"
    return UnusableFolder(path, reason)


def _obstacle(path: Path) -> UnusableFolder | None:
    """What stands where a folder is needed."""
    for place in (path, *path.parents):
        try:
            mode = place.stat().st_mode  # asked once: others may be making the folder just now
        except (FileNotFoundError, NotADirectoryError):
            if not place.is_symlink():
                continue
            return UnusableFolder(
                place,
                "it is a link that leads to no folder. Make the folder it points to, remove the "
                "link, or choose another folder",
            )
        if stat.S_ISDIR(mode):
            return None
        return UnusableFolder(
            place,
            "it is a file where a folder is needed. Move it away, or choose another folder",
        )
    return None


def _is_full(error: BaseException | None) -> bool:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if _FULL_TEXT.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _fullest(folder: Path) -> Path:
    """The one of the folders where work is written that has the least room."""

    def free(place: Path) -> int:
        try:
            return shutil.disk_usage(place).free
        except OSError:
            return 0

    return min((folder, Path(tempfile.gettempdir())), key=free)
