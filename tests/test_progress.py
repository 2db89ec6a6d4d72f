"""Progress on a real terminal, and where there is none."""

import io
import re
import sys
import threading
import time

import pytest
from terminal_emulator import on_a_terminal

from tda_dagster import progress
from tda_dagster.progress import Progress, shown_on
from tda_dagster.terminal import Terminal

# Everything that writes past the bars: native code, a logger that keeps the stream that it found,
# a child, half lines, lines drawn over themselves, and bytes that move the cursor.
NOISY = r"""
import logging, os, subprocess, sys, time
logger = logging.getLogger("library")
logger.addHandler(logging.StreamHandler(sys.stderr))
from tda_dagster.progress import Progress, shown_on
from tda_dagster.terminal import Terminal

print("before")
with shown_on(Terminal(soft_wrap=True)):
    for name in ("base/one", "base/two"):
        asset = Progress(name, print)
        asset.update(1, 3)
        time.sleep(0.15)
        os.write(2, f"native {name}\n".encode())
        logger.warning("logger %s", name)
        subprocess.run(["echo", f"child {name}"])
        asset.update(2, 3)
        time.sleep(0.15)
        print(f"print {name}")
        os.write(1, b"half ")
        time.sleep(0.15)
        os.write(1, f"line {name}\n".encode())
        os.write(2, b"10%\r50%\r" + f"100% {name}\n".encode())
        os.write(2, f"\x1b[2J\x1b[1;1H\x1b[31mescaped {name}\n".encode())
        time.sleep(0.15)
        asset.done(cached=name == "base/two")
    os.write(2, b"unfinished")
print("after")
"""


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (50, 8)])
def test_on_a_terminal_every_line_is_whole_and_there_once(columns: int, rows: int) -> None:
    shown = on_a_terminal([sys.executable, "-c", NOISY], columns=columns, rows=rows)
    assert shown.status == 0
    wanted = ["before"]
    for name, how in (("base/one", r"0\.\d s"), ("base/two", "cached")):
        wanted += [f"{what} {name}" for what in ("native", "logger", "child", "print", "half line")]
        wanted += [f"100% {name}", f"escaped {name}", rf"  ✓ {name} +{how}"]
    wanted += ["unfinished", "after"]
    assert len(shown.lines) == len(wanted), shown.lines
    # What comes by a pipe may be late by a line, never torn.
    for pattern in wanted:
        assert sum(_matches(pattern, line) for line in shown.lines) == 1, (pattern, shown.lines)


def _matches(pattern: str, line: str) -> bool:
    return re.fullmatch(pattern, line) is not None


def test_without_a_terminal_there_is_a_line_per_asset_and_one_every_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.1)
    file = io.StringIO()
    with shown_on(Terminal(file=file, width=200)):
        asset = Progress("base/slow", print)
        asset.update(1, 4)
        time.sleep(0.25)
        asset.update(2, 4)
        time.sleep(0.25)
        asset.done(cached=False)
        Progress("base/found", print).done(cached=True)
    time.sleep(0.2)
    first, *between, slow, started, found = file.getvalue().splitlines()
    assert first.split() == ["…", "base/slow"]
    assert 2 <= len(between) <= 6
    assert "1 of 4, 1 s so far" in between[0]
    assert "2 of 4, 1 s so far, about 1 s left" in between[-1]
    assert slow.split()[:2] == ["✓", "base/slow"]
    assert started.split() == ["…", "base/found"]
    assert found.split() == ["✓", "base/found", "cached"]
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_what_an_earlier_run_has_left_says_nothing_about_the_time_left() -> None:
    asset = Progress("base/resumed", print)
    asset.update(90, 100)
    time.sleep(0.2)
    asset.update(91, 100)
    assert asset.seconds_left == pytest.approx(9 * 0.2, rel=0.2)


def test_where_no_command_shows_it_progress_goes_to_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    said: list[str] = []
    asset = Progress("base/logged", said.append)
    asset.update(1, 2)
    asset.done(cached=False)
    (line,) = said
    assert line.startswith("base/logged: 1 of 2")
