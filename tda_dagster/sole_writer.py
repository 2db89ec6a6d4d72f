"""A terminal with one writer: what else the process prints while bars are drawn is passed on to it.

What belongs here: the file descriptors. Libraries, loggers and native code write to descriptors 1
and 2 themselves, in the middle of a bar; bars are drawn on a duplicate of the terminal's instead.
"""

import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.text import Text

from tda_dagster.terminal import Terminal

_OUTPUT = (1, 2)


@contextmanager
def sole_writer(console: Terminal) -> Iterator[Terminal]:
    """A console on the same terminal that nothing else writes to inside the block: lines that come
    by the descriptors 1 and 2 are printed on it, as they are complete.

    Of a console that is not on one of these, the console itself.
    """
    if not _is_on_output(console):
        yield console
        return
    _flush()
    terminal, saved = os.dup(console.file.fileno()), [os.dup(fd) for fd in _OUTPUT]
    reading, writing = os.pipe()
    with os.fdopen(terminal, "w", encoding="utf-8", errors="replace") as file:
        sole = Terminal(file=file, force_terminal=True, width=console.width, soft_wrap=True)
        over = threading.Event()
        passing = threading.Thread(
            target=_pass_on, args=(reading, sole.print, over), name="terminal", daemon=True
        )
        for fd in _OUTPUT:
            os.dup2(writing, fd)
        os.close(writing)
        passing.start()
        try:
            yield sole
        finally:
            _flush()
            for fd, before in zip(_OUTPUT, saved, strict=True):
                os.dup2(before, fd)
                os.close(before)
            over.set()
            passing.join()
            os.close(reading)


def _is_on_output(console: Terminal) -> bool:
    with suppress(OSError, ValueError, AttributeError):  # no file, a closed one, not a real one
        return console.is_terminal and console.file.fileno() in _OUTPUT
    return False


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _pass_on(reading: int, tell: Callable[[Text], None], over: threading.Event) -> None:
    """Print the lines that arrive until it is over and none is left. A child may hold the other
    end open for longer, so the end of the pipe is not waited for."""
    left = b""
    while True:
        last = over.is_set()
        if not select.select([reading], [], [], 0 if last else 0.1)[0]:
            if last:
                break
            continue
        arrived = os.read(reading, 1 << 16)
        if not arrived:
            break
        *lines, left = (left + arrived).split(b"\n")
        for line in lines:
            tell(_plain(line))
    if left:
        tell(_plain(left))


def _plain(line: bytes) -> Text:
    """A line without what would move the cursor; of one that was drawn over itself, the end."""
    text = line.decode("utf-8", errors="replace").rstrip("\r").rsplit("\r", 1)[-1]
    return Text.from_ansi(text)
