"""Room for work in progress: folders that nobody sees and that a crash cannot leave for ever."""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from tda_dagster.store.disk import disk_errors
from tda_dagster.store.processes import Process, has_ended, this_machine, this_process

# A folder of an unknown process that is younger than this may not have been locked yet.
_GRACE_S = 3600.0
# Locks may not reach other machines. What one of them left is theirs until it is this old.
_FOREIGN_GRACE_S = 7 * 86_400.0

_NAME = re.compile(r"(?P<host>.*)-(?P<machine>[0-9a-f]{16})-(?P<pid>\d+)-(?P<started>\d*)-[^-]*")


class Staging:
    """Makes temporary folders below `root`, on the disk where their files will finally live.

    A folder is named after the process that uses it, and locked while in use. What a process of
    this machine left that has ended, however it ended, is recognised by its name; what others left,
    by the lock that the system drops, and by age.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._swept = False

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new empty folder, removed with all it holds when the `with` block ends.

        Raises `UnusableFolder` if none can be made.
        """
        with disk_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            if not self._swept:
                self.remove_leftovers()
            path = Path(tempfile.mkdtemp(prefix=_prefix(), dir=self._root))
            try:
                lock = os.open(path, os.O_RDONLY)
            except OSError:
                path.rmdir()
                raise
        try:
            with suppress(OSError):  # some network filesystems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)

    def remove_leftovers(self) -> int:
        """Remove the folders of processes that have ended; returns how many there were. What
        cannot be removed is left for another time."""
        self._swept = True
        here, removed = this_machine(), 0
        with suppress(OSError):
            for path in sorted(self._root.iterdir()):
                with suppress(OSError):
                    if path.is_dir() and not path.is_symlink() and _is_left(path, here):
                        shutil.rmtree(path)
                        removed += 1
        return removed


def _prefix() -> str:
    process = this_process()
    return f"{_host()}-{_short(process.machine)}-{process.pid}-{process.started}-"


def _host() -> str:
    return quote(platform.node(), safe="")


def _short(machine: str) -> str:
    return hashlib.sha256(machine.encode()).hexdigest()[:16]


def _is_left(path: Path, here: str) -> bool:
    """Whether nobody works in the folder any more."""
    named = _NAME.fullmatch(path.name)
    if named is not None and named["machine"] == _short(here):
        # The system knows whether that process lives.
        owner = Process(here, int(named["pid"]), named["started"])
        return has_ended(owner, here) and not _is_locked(path)
    age_s = time.time() - _last_change(path)
    ours = path.name.startswith(f"{_host()}-")
    if age_s < (_GRACE_S if ours else _FOREIGN_GRACE_S):
        return False
    return not _is_locked(path)


def _is_locked(path: Path) -> bool:
    """Whether a process, perhaps a child of the one it is named after, works in the folder."""
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _last_change(path: Path) -> float:
    """When something in the folder was last written."""
    times = [path.stat().st_mtime]
    for folder, _, files in os.walk(path):
        times += [os.lstat(os.path.join(folder, name)).st_mtime for name in files]  # noqa: PTH118
    return max(times)
