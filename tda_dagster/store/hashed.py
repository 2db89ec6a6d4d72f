"""Digests of local files, each computed once per process and again when the file has changed.

What belongs here: remembering what was hashed. What a digest is compared with is not known here.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from tda_dagster.store.canonical import digest_of_file

# Filesystems stamp writes with a clock that ticks every few milliseconds. A file written this
# recently could change once more without a new stamp.
_UNSETTLED_NS = 50_000_000

_Stamp = tuple[int, int, int]
_known: dict[str, tuple[_Stamp, str]] = {}


def file_digest(path: Path) -> str:
    """sha256 of the file's bytes. A file whose inode, size and time of writing are as they were
    when this process hashed it is not read again. Raises FileNotFoundError."""
    before = _stamp(path)
    known = _known.get(str(path))
    if known is not None and known[0] == before:
        return known[1]
    began_ns = time.time_ns()
    digest = digest_of_file(path)
    if before == _stamp(path) and before[2] < began_ns - _UNSETTLED_NS:
        _known[str(path)] = before, digest
    return digest


def vouch(path: Path, digest: str) -> None:
    """Remember that the file, which this process has just written, has `digest`.

    Its time of writing is set back by a few ticks of the clock, so that no later change can have
    the same, and by no more: garbage collection goes by that time.
    """
    with suppress(OSError):  # then it is hashed when it is asked for
        state = path.stat()
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns - _UNSETTLED_NS))
        _known[str(path)] = _stamp(path), digest


def _stamp(path: Path) -> _Stamp:
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns
