"""Signals end the command line soon, with a line and an exit code, whatever it is doing."""

import os
import signal
import subprocess
import sys
import time

import pytest

START = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from tda_dagster.interruption import interruptible, raise_if_interrupted

def busy():
    while True:
        pass
"""
WAITS_FOR_A_WORKER = """
with interruptible():
    working = ThreadPoolExecutor(1).submit(busy)  # the interpreter's exit would wait for it
    print("ready", flush=True)
    working.result()
"""
DOES_NOT_UNWIND = """
with interruptible():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(60)
"""
HANDLES_SIGNALS_ITSELF = """
import signal
with interruptible():
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: (_ for _ in ()).throw(ValueError()))
        print("ready", flush=True)
        time.sleep(60)
    except ValueError:
        pass  # it takes note of it, as Dagster does
"""


def end(script: str, *signals: int) -> tuple[int, str, float]:
    """Exit code, standard error and seconds of a process that is sent the signals."""
    with subprocess.Popen(
        [sys.executable, "-c", START + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        start = time.monotonic()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.3)
        _, said = process.communicate(timeout=30)
        return process.returncode, said, time.monotonic() - start


@pytest.mark.parametrize("script", [WAITS_FOR_A_WORKER, HANDLES_SIGNALS_ITSELF])
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_ends_the_process_though_threads_compute(
    script: str, number: int, code: int, word: str
) -> None:
    returned, said, seconds = end(script, number)
    assert returned == code
    assert said == (
        f"{word}: nothing computed is lost; the shard in flight is computed again; run again to "
        "go on\n"
    )
    assert seconds < 3


def test_a_main_thread_that_does_not_unwind_is_left_behind() -> None:
    returned, said, seconds = end(DOES_NOT_UNWIND, signal.SIGTERM)
    assert (returned, said.split(":")[0]) == (143, "terminated")
    assert 2 < seconds < 5


def test_a_second_signal_ends_at_once() -> None:
    returned, _, seconds = end(DOES_NOT_UNWIND, signal.SIGINT, signal.SIGINT)
    assert returned == 130
    assert seconds < 2


def test_errors_and_exits_come_through() -> None:
    for statement, code in (("raise SystemExit(3)", 3), ("raise ValueError", 1), ("pass", 0)):
        script = f"{START}\nwith interruptible():\n    {statement}\n"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True)
        assert done.returncode == code
        assert os.linesep.encode() not in done.stdout
