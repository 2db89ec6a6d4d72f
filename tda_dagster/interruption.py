"""Ending the command line when the user or the system asks for it (SIGINT, SIGTERM).

What belongs here: noticing the signal, unwinding the main thread, and ending the process although
worker threads still compute. Whatever is interrupted must bear to be killed at any point; the store
does. Nothing heavy is imported.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

UNWIND_S = 3.5
"""How long the main thread may take to unwind, in seconds; then the process ends without it."""

_SAFE = "nothing computed is lost; the shard in flight is computed again; run again to go on"

_received: int | None = None
_stderr = 2
"""Where the last line goes: a duplicate of descriptor 2, which is a pipe while bars are drawn."""


class Interrupted(BaseException):
    """A signal asked the process to end. It is no `Exception`, so that no handler of errors keeps
    it; `code` is the exit code that shells expect."""

    def __init__(self, signum: int) -> None:
        super().__init__(_message(signum))
        self.code = 128 + signum


def raise_if_interrupted() -> None:
    """Raise `Interrupted` if a signal came that somebody else, such as Dagster, has handled."""
    if _received is not None:
        raise Interrupted(_received)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block, which wraps the whole command line, SIGINT and SIGTERM end the process.

    The main thread unwinds, so that Dagster can record that its run has ended; one line says what
    was interrupted and what is safe. The exit code is 130 or 143. The process ends at once, without
    waiting for worker threads: those may be inside a long computation. It also ends when the main
    thread takes longer than `UNWIND_S` to unwind, and at a second signal.
    """
    # Python writes each signal to this socket when it arrives. A handler alone would have to wait
    # until the main thread returns from whatever C function it is in.
    reading, writing = socket.socketpair()
    global _stderr
    _stderr = os.dup(2)
    writing.setblocking(False)
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for signum in before:
        # One handler for both: Dagster sets that of SIGINT for SIGTERM too.
        signal.signal(signum, _raise)
    wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    watching = threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True)
    watching.start()
    try:
        yield
    except Interrupted as interrupted:
        _end(interrupted.code - 128)
    finally:
        signal.set_wakeup_fd(wakeup)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        writing.close()  # ends the thread when it has read what is there
        watching.join()
        if _received is not None:
            _end(_received)
        os.close(_stderr)


def _raise(signum: int, _frame: FrameType | None) -> None:
    raise Interrupted(signum)


def _watch(signals: socket.socket) -> None:
    global _received
    with signals:
        ending = False
        while True:
            try:
                data = signals.recv(1)
            except TimeoutError:
                _end(_received or signal.SIGTERM)
            if not data:
                return
            if data[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if ending:
                _end(data[0])
            _received, ending = data[0], True
            signals.settimeout(UNWIND_S)


_ending = threading.Lock()


def _end(signum: int) -> None:
    """Say it and end the process; never returns."""
    _ending.acquire()  # the first thread here ends the process
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    with suppress(OSError):
        cursor = "\x1b[?25h" if os.isatty(_stderr) else ""  # a bar may have hidden it
        os.write(_stderr, f"{cursor}{_message(signum)}\n".encode())
    os._exit(128 + signum)


def _message(signum: int) -> str:
    return f"{'interrupted' if signum == signal.SIGINT else 'terminated'}: {_SAFE}"
