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

# A folder younger than this may belong to a process that has made it but not yet locked it.
_GRACE_S = 3600.0


class Staging:
    """Makes temporary folders below `root`, on the disk where their files will finally live.

    Each folder is locked while in use. The system drops the lock of a process that dies, however
    it dies, so what a killed run of this machine left is recognised and removed by a later one.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._machine = quote(platform.node(), safe="") + "-"
        self._swept = False

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new empty folder, removed with all it holds when the `with` block ends."""
        self._root.mkdir(parents=True, exist_ok=True)
        self._sweep()
        path = Path(tempfile.mkdtemp(prefix=self._machine, dir=self._root))
        lock = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network filesystems have no locks; then none is swept
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)

    def _sweep(self) -> None:
        if self._swept:
            return
        self._swept = True
        for path in self._root.glob(f"{self._machine}*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _GRACE_S:
                    _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: somebody works there
        shutil.rmtree(path)
    finally:
        os.close(lock)
