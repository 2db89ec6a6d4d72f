"""Dagster's web server behind the guard, with the daemon and the code server that it needs.

What belongs here: starting the three together and ending them together. The web server runs in
this process, since the guard has to be around its application: Dagster's own commands take none,
and a proxy in front of them would leave their port open to every page of a browser on this machine.
The code server listens on a socket in a folder of the user's own, not on a port.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import IO

import uvicorn
import yaml
from dagster import DagsterInstance

# What `dagster-webserver` itself is put together from. There is no public way to get its ASGI
# application; should one of these names go, the import fails and nothing is served unguarded.
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__ as webserver_version

from tda_dagster.errors import TdaError
from tda_dagster.terminal import plain
from tda_dagster.web import TOKEN_VARIABLE
from tda_dagster.web.guard import Access, Guard

_DEFINITIONS = "tda_dagster.definitions"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_POLL_MS = 2000
_GRACE_S = 2.0
_LOOK_EVERY_S = 0.5
_CODE_SERVER_S = 180.0
_STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_S, _POOL_OVERFLOW = 15_000, 3600, 20
"""As `dagster-webserver` sets them."""


class ServiceEnded(TdaError):
    """A process that the UI needs has ended by itself."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the address; raises TdaError when it cannot be had."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        raise TdaError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; `--port` names "
            "another one"
        ) from None
    return listener


def serve(listener: socket.socket, access: Access) -> None:
    """Serve the UI of the workspace that the environment names until a signal ends it.

    SIGINT raises KeyboardInterrupt and SIGTERM SystemExit (143) when everything has been ended;
    ServiceEnded is raised when the daemon or the code server ended before.
    """
    with _sigterm_exits(), tempfile.TemporaryDirectory(prefix="tda-ui-") as folder:
        code_socket, workspace_file = Path(folder) / "code.sock", Path(folder) / "workspace.yaml"
        server_location = {"socket": str(code_socket), "location_name": _DEFINITIONS}
        workspace_file.write_text(
            yaml.safe_dump({"load_from": [{"grpc_server": server_location}]}), encoding="utf-8"
        )
        with _Children() as children:
            start = ("code-server", "start", "-m", _DEFINITIONS, "-s", str(code_socket))
            children.start("code server", "dagster", *start, "--log-level", "warning")
            children.wait_for_socket(code_socket)
            children.start("daemon", "dagster._daemon", "run", "-w", str(workspace_file))
            with (
                DagsterInstance.get() as instance,
                WorkspaceProcessContext(
                    instance,
                    workspace_load_target=WorkspaceFileTarget(paths=[str(workspace_file)]),
                    version=webserver_version,
                ) as context,
            ):
                instance.optimize_for_webserver(
                    _STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_S, _POOL_OVERFLOW
                )
                app = create_app_from_workspace_process_context(
                    context, live_data_poll_rate=_POLL_MS
                )
                server = uvicorn.Server(
                    uvicorn.Config(
                        Guard(app, access),
                        log_level="warning",
                        lifespan="off",
                        # A header of the client must not change what the guard sees.
                        proxy_headers=False,
                        server_header=False,
                        timeout_graceful_shutdown=1,
                    )
                )
                children.on_end(lambda: setattr(server, "should_exit", True))
                server.run(sockets=[listener])
            children.check()


class _Children:
    """Processes that end together; what is left of them when the block ends is ended."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._relays: list[threading.Thread] = []
        self._ended: str | None = None
        self._is_ready = False

    def __enter__(self) -> "_Children":
        return self

    def __exit__(self, *_: object) -> None:
        # What is still loading has nothing to bring to an end, and would say so at length.
        self._signal(signal.SIGTERM if self._is_ready else signal.SIGKILL)
        deadline = time.monotonic() + _GRACE_S
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        self._signal(signal.SIGKILL)
        for process in self._running.values():
            process.wait()
        for relay in self._relays:
            relay.join(timeout=1.0)

    def start(self, name: str, module: str, *words: str) -> None:
        """Start a module as a process that leads a group of its own. What it prints is printed
        here, without what a terminal would obey: Dagster's log quotes titles and paths."""
        tied = (sys.executable, "-m", "tda_dagster.web.child", str(os.getpid()))
        process = subprocess.Popen(
            [*tied, module, *words],
            env=_without_secrets(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._running[name] = process
        self._relays.append(threading.Thread(target=_relay, args=[process.stdout], daemon=True))
        self._relays[-1].start()

    def wait_for_socket(self, path: Path) -> None:
        """Wait until something listens there; raises ServiceEnded if nothing will."""
        deadline = time.monotonic() + _CODE_SERVER_S
        while True:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(path))
                self._is_ready = True
                return
            self.check()
            if time.monotonic() > deadline:
                raise ServiceEnded(
                    f"Dagster's code server has not started within {_CODE_SERVER_S:.0f} s"
                )
            time.sleep(0.1)

    def on_end(self, call: Callable[[], object]) -> None:
        """Have `call` called, from another thread, as soon as one of the processes ends."""

        def look() -> None:
            while self._first_ended() is None:
                time.sleep(_LOOK_EVERY_S)
            call()

        threading.Thread(target=look, daemon=True).start()

    def check(self) -> None:
        """Raise ServiceEnded if one of the processes has ended."""
        if (name := self._first_ended()) is not None:
            code = self._running[name].returncode
            raise ServiceEnded(
                f"Dagster's {name} ended by itself (exit code {code}), so the UI ends; the lines "
                "above may say why"
            )

    def _first_ended(self) -> str | None:
        if self._ended is None:
            for name, process in self._running.items():
                if process.poll() is not None:
                    self._ended = name
        return self._ended

    def _signal(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)


def _relay(lines: IO[str]) -> None:
    for line in lines:
        sys.stderr.write(plain(_COLOUR.sub("", line)))
        sys.stderr.flush()


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name != TOKEN_VARIABLE}


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Inside the block SIGTERM raises SystemExit, so that what was started is ended."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
