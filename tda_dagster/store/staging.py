"""Room for work in progress: folders that nobody sees and that a crash cannot leave for ever."""

import fcntl
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from tda_dagster.processes import left_by_the_dead, process_mark

# A folder younger than this may belong to a process that has made it but not yet locked it, where
# its name does not tell whether that process still runs.
_GRACE_S = 3600.0


class Staging:
    """Makes temporary folders below `root`, on the disk where their files will finally live.

    Each folder is named by its process and locked while in use. The system drops the lock of a
    process that dies, however it dies. The first use of a `Staging` removes the folders that killed
    processes of this machine left.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._machine = quote(platform.node(), safe="") + "-"
        self._swept = False

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new empty folder, removed with all it holds when the `with` block ends."""
        self._root.mkdir(parents=True, exist_ok=True)
        self.sweep()
        prefix = f"{self._machine}{process_mark()}-"
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=self._root))
        lock = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network filesystems have no locks; then none is swept
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)

    def sweep(self) -> None:
        """Remove what killed processes of this machine left, once."""
        if self._swept:
            return
        self._swept = True
        for path in self._root.glob(f"{self._machine}*"):
            with suppress(OSError):
                if left_by_the_dead(path.name) or time.time() - path.stat().st_mtime > _GRACE_S:
                    _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: somebody works there
        shutil.rmtree(path)
    finally:
        os.close(lock)
