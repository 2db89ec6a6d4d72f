"""Faults that are not the user's input: of the machine (disk, permissions, memory) and of the
program.

What belongs here: one line of plain words for either, and the log file that gets the traceback.
Faults of input are `TdaError`s, whose messages are written where they are raised.
"""

import errno
import os
import re
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from tda_dagster.errors import TdaError

LOG_FOLDER = Path("data", "log")
"""Below the workspace."""

_LONGEST_TEXT = 300

_DISK_FULL = (
    "there is no space left on the disk; free some and run the command again, what was computed "
    "before is kept"
)
_READ_ONLY = "the filesystem is read-only; make it writable, or move the study to another disk"
_DENIED = "permission denied; give yourself read and write access to it"
_TOO_MANY_FILES = "too many files are open; raise the limit (`ulimit -n 4096`) and run again"
_OF_ERRNO = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: "the disk quota is used up; free some space and run the command again, what was "
    "computed before is kept",
    errno.EFBIG: "the file would be larger than the system allows; raise the limit "
    "(`ulimit -f unlimited`) or use a filesystem for large files",
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EMFILE: _TOO_MANY_FILES,
    errno.ENFILE: _TOO_MANY_FILES,
    errno.ENOTDIR: "it is a file where a folder should be; move it away",
    errno.EEXIST: "it is a file where a folder should be; move it away",
    errno.EISDIR: "a folder is in the place of a file; move it away",
    errno.ENAMETOOLONG: "the name is too long for the filesystem; shorten it",
    errno.EIO: "the disk reports an input/output error; check the disk",
    errno.ENOMEM: "there is not enough memory",
}
# How libraries with errors of their own (SQLite, DuckDB, safetensors, polars) say the same.
_OF_TEXT = (
    (re.compile("no space left|disk is full|disk full|os error 28", re.I), _DISK_FULL),
    (re.compile("file too large|os error 27", re.I), _OF_ERRNO[errno.EFBIG]),
    (re.compile("disk quota exceeded|os error 122", re.I), _OF_ERRNO[errno.EDQUOT]),
    (re.compile("read-?only (file ?system|database)|os error 30", re.I), _READ_ONLY),
    (re.compile("permission denied|os error 13", re.I), _DENIED),
    (re.compile("too many open files|os error 24", re.I), _TOO_MANY_FILES),
    (
        re.compile("unable to open database file", re.I),
        "its database cannot be opened or made; check that its folder exists and can be written",
    ),
    (re.compile("disk I/O error", re.I), _OF_ERRNO[errno.EIO]),
    (
        re.compile("out of memory|not enough memory|can't allocate memory", re.I),
        "there is not enough memory; close other programs, or lower batch sizes and "
        "compute.workers in params.yaml",
    ),
)


class Fault(TdaError):
    """A fault that `in_words` put into one line."""


@contextmanager
def about(what: str) -> Iterator[None]:
    """Let exceptions from inside the block carry `what` they are about: a shard, track or file."""
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise


def subjects(error: BaseException) -> list[str]:
    """What `about` noted on the error, outermost first."""
    return list(reversed(getattr(error, "__notes__", [])))


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those it came from, the nearest first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def of_environment(error: BaseException) -> str | None:
    """One line on a fault of the machine: the path where one is known, what is wrong and what to
    do. None where the error, and those it came from, are of another kind."""
    for link in chain(error):
        if isinstance(link, MemoryError):
            return _OF_TEXT[-1][1]
        if isinstance(link, OSError) and link.errno in _OF_ERRNO:
            path = link.filename2 or link.filename
            where = f"{_named(path)}: " if isinstance(path, str | bytes) else ""
            return f"{where}{_OF_ERRNO[link.errno]}"
        if isinstance(link, TdaError):
            continue
        for pattern, words in _OF_TEXT:
            if pattern.search(str(link)[:2000]):
                return words
    return None


def in_words(error: Exception, root: Path, name: str) -> str:
    """One line on any error: a `TdaError`'s own message, a fault of the machine, or what is known
    of a fault of the program. The traceback of the latter two goes to the log `name` of the study
    at `root`; the line of a fault of the program names that file."""
    if isinstance(error, TdaError):
        return str(error)
    log = write_log(error, root, name)
    if (words := of_environment(error)) is not None:
        return words
    where = f"the traceback is in {log}" if log else "no log could be written"
    return f"an unexpected error stopped it ({_text(error)}); {where}"


def write_log(error: BaseException, root: Path, name: str) -> Path | None:
    """Append the error's traceback to the log `name` of the study at `root`; returns the file's
    path, relative to `root`. Outside a study it is a new temporary file. None where neither can be
    written."""
    text = (
        f"{datetime.now().astimezone().isoformat(timespec='seconds')}\n"
        f"{''.join(traceback.format_exception(error))}\n"
    )
    data = text.encode(errors="backslashreplace")
    path = LOG_FOLDER / f"{name}.log"
    try:
        if (root / "params.yaml").is_file():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            with (root / path).open("ab") as file:
                file.write(data)
            return path
        with tempfile.NamedTemporaryFile(prefix="tda-", suffix=".log", delete=False) as log:
            log.write(data)
        return Path(log.name)
    except OSError:
        return None


def _text(error: BaseException) -> str:
    """What the error says, in one line, and where in the program it was raised."""
    words = " ".join(str(error).split())
    if len(words) > _LONGEST_TEXT:
        words = f"{words[: _LONGEST_TEXT - 3]}..."
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return ", at ".join(part for part in (words, place) if part)


def _named(path: str | bytes) -> str:
    """The path as text, or that of a file on the way to it that is where a folder should be."""
    named = Path(os.fsdecode(path))
    with suppress(OSError):
        for parent in named.parents:
            if parent.exists():
                named = named if parent.is_dir() else parent
                break
    return str(named).encode(errors="replace").decode()
