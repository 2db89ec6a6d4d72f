"""A folder of copies that is kept below a size: those not used for longest go first.

What belongs here: counting, marking and evicting files. What they are, and whether they are still
right, is not known here.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tda_dagster.store.disk import disk_errors
from tda_dagster.store.places import LocalPlace

# How long a path that was given out stays valid, in seconds: long enough to be opened by whoever
# asked for it, and an open file survives its eviction.
LENT_S = 600.0

# Counting the folder is slow, so it is done only when so much of the limit has been added.
_UNCOUNTED_SHARE = 0.02


class FileCache:
    """Files below `<root>/<folder>`, at most `limit_bytes` of them (None: no limit).

    A file is marked as used whenever its path is given out, and is not evicted within `LENT_S`
    seconds of that, by any process of the machine; so a limit smaller than what is used within
    that time is exceeded. The mark is the file's time of access.
    """

    def __init__(self, root: Path, folder: str, limit_bytes: int | None) -> None:
        self.place = LocalPlace(root)
        self._folder = folder
        self._lock = root / "tmp" / "cache.lock"
        self._limit_bytes = limit_bytes
        self._uncounted_bytes: float = float("inf")  # nothing is known yet

    def lend(self, name: str) -> Path | None:
        """The path of a file, marked as used; None if there is none."""
        path = self.place.path(name)
        if not path.is_file():
            return None
        with self._locked(fcntl.LOCK_SH):
            try:
                used = path.stat()
                os.utime(path, ns=(time.time_ns(), used.st_mtime_ns))
            except FileNotFoundError:
                return None
            except OSError:  # somebody else's, in a shared or read-only cache: it may go earlier
                pass
        return path

    def keep(self, name: str, path: Path) -> None:
        """Move the file at `path`, made in the place's staging, into the cache under `name`."""
        with disk_errors(self.place.path(self._folder)):
            self._uncounted_bytes += path.stat().st_size
            # Not flushed to the disk: a copy spoilt by a power cut is found out and fetched again.
            path.chmod(0o444)
            kept = self.place.path(name)
            kept.parent.mkdir(parents=True, exist_ok=True)
            path.replace(kept)
        self.lend(name)
        if self._limit_bytes is None:
            return
        if self._uncounted_bytes > _UNCOUNTED_SHARE * self._limit_bytes:
            self._evict(self._limit_bytes)
            self._uncounted_bytes = 0

    def make_room(self, size_bytes: int) -> bool:
        """Evict files until `size_bytes` are freed; says whether that many could be."""
        held = sum(state.st_size for _, state in self.place.files(self._folder))
        return self._evict(max(0, held - size_bytes)) <= held - size_bytes

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        return sorted(name for name, _ in self.place.files(self._folder))

    def _evict(self, limit_bytes: int) -> int:
        """Evict files until no more than `limit_bytes` are left; returns how many are."""
        files = sorted(
            (state.st_atime, state.st_size, name) for name, state in self.place.files(self._folder)
        )
        held = sum(size for _, size, _ in files)
        for _, size, name in files:
            if held <= limit_bytes:
                break
            path = self.place.path(name)
            with (
                self._locked(fcntl.LOCK_EX),
                disk_errors(path),
                suppress(FileNotFoundError),  # another process evicts too
            ):
                if path.stat().st_atime > time.time() - LENT_S:
                    break
                path.unlink()
            held -= size
        return held

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        lock = None
        try:
            with suppress(OSError):  # the cache is read-only, or its filesystem has no locks
                self._lock.parent.mkdir(parents=True, exist_ok=True)
                lock = os.open(self._lock, os.O_RDONLY | os.O_CREAT, 0o666)
                fcntl.flock(lock, kind)
            yield
        finally:
            if lock is not None:
                os.close(lock)
