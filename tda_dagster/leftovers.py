"""What killed processes left in a workspace, and its removal.

What belongs here: telling the build folders of dead processes from those in use. What the store
keeps is not a leftover; `tda gc` looks after that.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tda_dagster.processes import left_by_the_dead
from tda_dagster.workspace import Workspace

_GRACE_S = 86_400.0
"""Folders whose name does not tell their process must be older than this, in seconds."""
_OPENING_S = 5.0
"""How long a process may take to open a temporary home that it has just made, in seconds."""


def remove_leftovers(workspace: Workspace) -> list[Path]:
    """Remove the build folders of processes that have ended; returns them. Folders in use, and
    those that cannot be removed, stay."""
    removed = []
    for path in _build_folders(workspace):
        with suppress(OSError):
            if _abandoned(path):
                shutil.rmtree(path)
                removed.append(path)
    for path in workspace.root.glob(".tmp_dagster_home_*"):
        with suppress(OSError):
            if path.stat().st_uid == os.getuid() and not _in_use(path):
                shutil.rmtree(path)
                removed.append(path)
    with suppress(OSError):
        workspace.store.sweep()
    return removed


def _build_folders(workspace: Workspace) -> Iterator[Path]:
    """The folders that building the warehouse and exporting artifacts make and remove."""
    yield from workspace.database.parent.glob(".build-*")
    yield from workspace.cache.glob("*/.export-*")


def _abandoned(path: Path) -> bool:
    dead = left_by_the_dead(path.name)
    return _old(path) if dead is None else dead


def _in_use(home: Path) -> bool:
    """Whether a process has Dagster's temporary home open, or was told of it; Dagster does not
    name its process."""
    if not Path("/proc/self/environ").exists():
        return not _old(home)
    if time.time() - home.stat().st_mtime < _OPENING_S:
        return True
    return any(_knows(process, home.name) for process in Path("/proc").glob("[0-9]*"))


def _knows(process: Path, name: str) -> bool:
    for told in ("cmdline", "environ"):
        with suppress(OSError):
            if os.fsencode(name) in (process / told).read_bytes():
                return True
    with suppress(OSError):
        for link in (process / "fd").iterdir():
            with suppress(OSError):
                if name in str(link.readlink()):
                    return True
    return False


def _old(path: Path) -> bool:
    newest = max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
    return time.time() - newest > _GRACE_S
