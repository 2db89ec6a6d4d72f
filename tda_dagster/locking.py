"""Waiting for other processes of this machine that change the same files."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Until the `with` block ends, processes of this machine that ask for the same folder wait.

    The system frees the lock of a process that dies.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network filesystems have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
