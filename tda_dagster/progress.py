"""Progress of long work, with the time left.

What belongs here: one place to report to, and the three ways to show it. A command shows bars on a
terminal and lines elsewhere (a file, a pipe, `dvc repro`, CI); a run of the browser writes to its
log.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from tda_dagster.sole_writer import sole_writer
from tda_dagster.terminal import Terminal

LOG_EVERY_S = 10.0
"""Interval of the lines in the log of a run, s."""
LINE_EVERY_S = 30.0
"""Interval of the lines that a command prints where there is no terminal, s."""


class _Display(Protocol):
    """Shows the assets that are being made."""

    def start(self, asset: "Progress") -> None: ...

    def update(self, asset: "Progress") -> None: ...

    def end(self, asset: "Progress", how: str) -> None: ...


_shown_by: _Display | None = None


class Progress:
    """Progress of one asset, from when it is made until `done`."""

    def __init__(self, name: str, log: Callable[[str], object]) -> None:
        self.name = name
        self.finished, self.total = 0, 0
        self._start = self._last_log = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._log, self._display = log, _shown_by
        if self._display is not None:
            self._display.start(self)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the seconds that are left; None as long as nothing is known."""
        if not self.finished or self._first is None:
            return None
        since, before = self._first
        if self.finished == before:  # only one report so far
            since, before = self._start, 0
        rate = (self.finished - before) / max(time.monotonic() - since, 1e-9)
        return (self.total - self.finished) / rate

    def update(self, done: int, total: int) -> None:
        """Report that `done` of `total` equal parts are finished."""
        self.finished, self.total = done, total
        if self._first is None or done < self._first[1]:
            # What an interrupted run has left is found at once: it says nothing about the rate.
            self._first = (time.monotonic(), done)
        if self._display is not None:
            self._display.update(self)
        elif done and time.monotonic() - self._last_log >= LOG_EVERY_S:
            self._last_log = time.monotonic()
            self._log(f"{self.name}: {self.state()}")

    def state(self) -> str:
        """What is known of the asset while it is being made, as a phrase."""
        known = [f"{self.finished} of {self.total}"] if self.total else []
        known.append(f"{_duration(self.seconds)} so far")
        if self.seconds_left is not None:
            known.append(f"about {_duration(self.seconds_left)} left")
        return ", ".join(known)

    def done(self, *, cached: bool) -> None:
        """Report the end, and whether anything had to be computed."""
        if self._display is not None:
            self._display.end(self, "cached" if cached else f"{self.seconds:6.1f} s")


class _Bars:
    """Bars at the bottom of a terminal, with a line above them for every finished asset."""

    def __init__(self, console: Terminal, shown: RichProgress) -> None:
        self._console, self._shown = console, shown
        self._tasks: dict[Progress, TaskID] = {}

    def start(self, asset: Progress) -> None:
        self._tasks[asset] = self._shown.add_task(asset.name, total=None)

    def update(self, asset: Progress) -> None:
        self._shown.update(self._tasks[asset], completed=asset.finished, total=asset.total)

    def end(self, asset: Progress, how: str) -> None:
        self._shown.remove_task(self._tasks.pop(asset))
        _print_end(self._console, asset, how)


class _Lines:
    """A line when an asset starts, one every `LINE_EVERY_S` while it is made, one at its end."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._assets: set[Progress] = set()
        self._lock = threading.Lock()

    def start(self, asset: Progress) -> None:
        with self._lock:
            self._assets.add(asset)
            self._console.say("  ", ("…", "dim"), f" {asset.name}")

    def update(self, asset: Progress) -> None:
        pass  # `tell` asks for it

    def end(self, asset: Progress, how: str) -> None:
        with self._lock:
            self._assets.discard(asset)
            _print_end(self._console, asset, how)

    def tell(self) -> None:
        """Print a line for every asset that is being made."""
        with self._lock:
            for asset in sorted(self._assets, key=lambda asset: asset.name):
                self._console.say("  ", ("…", "dim"), f" {asset.name:<26} {asset.state()}")


def _print_end(console: Terminal, asset: Progress, how: str) -> None:
    console.say("  ", ("✓", "green"), f" {asset.name:<26} ", (how, "dim"))


@contextmanager
def shown_on(console: Terminal) -> Iterator[None]:
    """Inside the block, the progress of assets is shown on the console: as bars if it is a
    terminal, else as lines."""
    with _bars(console) if console.is_terminal else _lines(console):
        yield


@contextmanager
def _bars(console: Terminal) -> Iterator[None]:
    with (
        sole_writer(console) as terminal,
        RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description:<26}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=terminal,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as shown,
        _showing(_Bars(terminal, shown)),
    ):
        yield


@contextmanager
def _lines(console: Terminal) -> Iterator[None]:
    lines, over = _Lines(console), threading.Event()

    def keep_telling() -> None:
        while not over.wait(LINE_EVERY_S):
            lines.tell()

    thread = threading.Thread(target=keep_telling, name="progress", daemon=True)
    thread.start()
    try:
        with _showing(lines):
            yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _showing(display: _Display) -> Iterator[None]:
    global _shown_by
    before, _shown_by = _shown_by, display
    try:
        yield
    finally:
        _shown_by = before


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if seconds < 90 * 60:
        return f"{math.ceil(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
