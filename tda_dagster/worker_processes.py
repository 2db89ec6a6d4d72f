"""Worker processes that do not outlive the process that started them.

What belongs here: starting them, handing them work, and their end. They are for work that holds
Python's lock, which threads would do one after the other.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from tda_dagster.faults import Fault

P = ParamSpec("P")
R = TypeVar("R")


class WorkerProcesses:
    """Up to `count` processes, each started when it is first needed."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result, computed in a worker process; the calling thread waits for it.

        Function, arguments and result are pickled. Raises what the function raises, and `Fault`
        when the worker was killed.
        """
        try:
            return self._pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            raise Fault(
                "a worker process was killed, most often by the system because memory ran out; "
                "close other programs or lower compute.workers in params.yaml"
            ) from error


@contextmanager
def worker_processes(count: int) -> Iterator[WorkerProcesses]:
    """Worker processes for the `with` block. They end with the block, and when this process ends,
    however it ends."""
    # spawn: forking a process that already runs threads (polars, torch) can hang it
    context = multiprocessing.get_context("spawn")
    with _quiet_tracker():
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_follow_parent)
    try:
        yield WorkerProcesses(pool)
    except Exception:
        pool.shutdown(cancel_futures=True)
        raise
    except BaseException:  # interrupted: do not wait for work under way
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


@contextmanager
def _quiet_tracker() -> Iterator[None]:
    """Keep Python's tracker of semaphores, which starts with the first pool, from printing a
    warning when an interrupted run ends without giving them back. The tracker frees them itself."""
    before = os.environ.get("PYTHONWARNINGS")
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ["PYTHONWARNINGS"] = quiet if before is None else f"{before},{quiet}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def _follow_parent() -> None:
    """Let the parent decide on interruptions, and end with it."""
    for signum in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to workers, too
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # a pipe that the system closes when the parent ends, even by SIGKILL
    os._exit(1)
