"""A command on a pseudo-terminal, and what its user would see there in the end."""

import fcntl
import os
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyte

_LONGEST_S = 300.0


@dataclass(frozen=True)
class Shown:
    """The lines of the terminal, scrolled out ones first; seconds until the first byte; status."""

    lines: list[str]
    first_s: float
    status: int


def on_a_terminal(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    columns: int = 80,
    rows: int = 24,
) -> Shown:
    """Run a command on a terminal of that size until it ends."""
    environment = {**(os.environ if env is None else env), "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    start = time.monotonic()
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=1)
    stream, first = pyte.ByteStream(screen), 0.0
    while time.monotonic() - start < _LONGEST_S:
        try:
            data = os.read(ours, 1 << 16)
        except OSError:  # the last descriptor of the other end was closed
            break
        first = first or time.monotonic() - start
        stream.feed(data)
    os.close(ours)
    status = process.wait(timeout=10)
    scrolled = ["".join(line[x].data for x in range(columns)) for line in screen.history.top]
    lines = [line.rstrip() for line in (*scrolled, *screen.display)]
    while lines and not lines[-1]:
        lines.pop()
    return Shown(lines, first, status)
