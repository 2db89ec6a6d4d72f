"""Progress of long work, with the time left.

What belongs here: one place to report to, and two ways to show it: bars on a terminal when a
command asked for them, log lines otherwise.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from tda_dagster.terminal import styled

LOG_EVERY_S = 10.0

_bars: Bars | None = None


class Progress:
    """Progress of one asset, from when it is made until `done`."""

    def __init__(self, name: str, log: Callable[[str], object]) -> None:
        self._name, self._log = name, log
        self._start = self._last = time.monotonic()
        self._task = _bars.add_task(name, total=None) if _bars is not None else None

    def update(self, done: int, total: int) -> None:
        """Report that `done` of `total` equal parts are finished."""
        now = time.monotonic()
        if _bars is not None and self._task is not None:
            _bars.update(self._task, completed=done, total=total)
        elif now - self._last >= LOG_EVERY_S and done:
            self._last = now
            left = (now - self._start) / done * (total - done)
            self._log(f"{self._name}: {done} of {total}, about {left:.0f} s left")

    def done(self, *, cached: bool) -> None:
        """Report the end, and whether anything had to be computed."""
        if _bars is None or self._task is None:
            return
        seconds = time.monotonic() - self._start
        _bars.remove_task(self._task)
        how = ("cached", "dim") if cached else f"{seconds:6.1f} s"
        _bars.console.print(styled("  ", ("✓", "green"), f" {self._name:<26} ", how))


@contextmanager
def bars(console: Console) -> Iterator[None]:
    """Inside the block, progress is shown as bars on the console."""
    global _bars
    with Bars(
        SpinnerColumn(),
        TextColumn("{task.description:<26}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as shown:
        _bars = shown
        try:
            yield
        finally:
            _bars = None
