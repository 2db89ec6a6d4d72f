"""Processes of this machine: how one is identified, and whether it still runs.

A process id alone is not an identity: the system reuses ids. With the time at which the process
started, and the machine on which the id means something, it is one.
"""

import hashlib
import os
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process: its id, its start in ticks since the machine started ("" where the system does
    not tell), and its `machine`."""

    machine: str
    pid: int
    started: str

    def has_ended(self) -> bool | None:
        """Whether the process no longer runs; None for one of another machine, or container."""
        here = machine()
        if self.machine == here:
            return ended(self.pid, self.started)
        return True if _restarted(self.machine, here) else None


def this_process() -> Process:
    """The process that calls this."""
    return Process(machine(), os.getpid(), started(os.getpid()))


def process_mark() -> str:
    """This process as a part of a file's name, which `left_by_the_dead` understands."""
    us = this_process()
    return f"{_short(us.machine)}-{us.pid}-{us.started}"


def left_by_the_dead(name: str) -> bool | None:
    """Whether the process whose mark is in a file's name has ended; None where there is no mark of
    a process of this machine."""
    mark = re.search(rf"{_short(machine())}-(\d+)-(\d*)", name)
    return ended(int(mark[1]), mark[2]) if mark else None


def _short(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def machine() -> str:
    """The identity of this machine since its last start, as far as its process ids mean the same:
    its name and, where the system tells them, its id, its start and its space of process ids."""
    known = [platform.node().replace(" ", "_")]
    with suppress(OSError):  # only Linux has /proc
        known.append(_machine_id())
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        known.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(known)


def _machine_id() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip() or "-"
    except OSError:  # containers often have none
        return "-"


def _restarted(before: str, here: str) -> bool:
    """Whether `before` is this machine before its last start; without an id, that is not known."""
    then, now = before.split(), here.split()
    if len(then) != 4 or len(now) != 4 or now[1] == "-":
        return False
    return then[:2] == now[:2] and then[2] != now[2]


def ended(pid: int, began: str) -> bool:
    """Whether the process `pid` of this machine, started at `began`, no longer runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it belongs to another user, or is no process id
        pass
    state, now = _state(pid)
    return state in {"Z", "X"} or now not in {"", began}


def started(pid: int) -> str:
    """When the process started, in ticks since the machine did; "" where that is not known."""
    return _state(pid)[1]


def _state(pid: int) -> tuple[str, str]:
    """The state of a process as Linux names it ("Z" and "X": dead), and its start; ("", "") where
    they cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]
