"""Which process something belongs to, and whether that process still lives.

What belongs here: naming this process and this machine, and asking the system about others.
"""

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process: its id, when it began (in ticks since its machine did, "" if unknown), and the
    machine on which its id has a meaning (see `this_machine`)."""

    machine: str
    pid: int
    started: str


def this_process() -> Process:
    """The process that asks."""
    return Process(this_machine(), os.getpid(), _state(os.getpid())[1])


def this_machine() -> str:
    """Names this machine, since it was started, as far as its process ids mean the same."""
    known = [platform.node()]
    with suppress(OSError):  # there is no /proc everywhere
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        known.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(known)


def has_ended(process: Process, here: str) -> bool:
    """Whether a process is known to be no more. `here` is `this_machine()`: of processes on other
    machines nothing is known, so the answer is False."""
    if process.machine != here:
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        pass
    state, started = _state(process.pid)
    return state in {"Z", "X"} or started not in {"", process.started}


def _state(pid: int) -> tuple[str, str]:
    """The state of a process as Linux names it ("Z" and "X": dead), and when it began, which tells
    it from a later one with the same id. Two empty texts where that cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]
