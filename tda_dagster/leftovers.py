"""What killed processes left in a workspace, and its removal.

What belongs here: telling the build folders of dead processes from those in use. What the store
keeps is not a leftover; `tda gc` looks after that.
"""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from tda_dagster.settings import PARAMS_FILE
from tda_dagster.workspace import Workspace
from warehouse.build import building

_GRACE_S = 86_400.0
"""Where the system does not tell what a process uses, a folder in use is no older, in seconds."""
_OPENING_S = 5.0
"""How long a process may take to open a temporary home that it has just made, in seconds."""


def remove_leftovers(workspace: Workspace) -> int:
    """Remove the build folders of processes that have ended; returns how many there were. Folders
    in use, and those that cannot be removed, stay."""
    removed = building(workspace.database).remove_leftovers()
    if (workspace.root / PARAMS_FILE).exists():
        removed += workspace.store.remove_leftovers()
    for path in workspace.root.glob(".tmp_dagster_home_*"):
        with suppress(OSError):
            if path.stat().st_uid == os.getuid() and not _in_use(path):
                shutil.rmtree(path)
                removed += 1
    return removed


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
