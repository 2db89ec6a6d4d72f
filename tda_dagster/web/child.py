"""Runs a module of Dagster's as a process that does not outlive the one that started it.

    python -m tda_dagster.web.child PARENT_PID dagster code-server start …

What belongs here: the tie to the parent. A parent that is killed cannot end its children; so each
looks whether the parent is still there, and ends itself and what it started otherwise.
"""

import os
import runpy
import signal
import sys
import threading
import time

_LOOK_EVERY_S = 1.0
_GRACE_S = 10.0


def main() -> None:
    """Run the module that the command line names, with the words after it as its arguments."""
    parent, module, *words = sys.argv[1:]
    # A shell starts background processes with SIGINT ignored, and Dagster then ignores SIGTERM.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with, args=[int(parent)], daemon=True).start()
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    # The process leads a group of its own: this reaches what it started, too.
    os.killpg(os.getpgrp(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
