"""`tda ui`: the Dagster UI of a study.

What belongs here: options, and what is done before the web server starts. Heavy imports wait until
the command needs them.
"""

import ipaddress
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tda_dagster.cli_workspace import open_workspace
from tda_dagster.errors import TdaError
from tda_dagster.terminal import Terminal
from tda_dagster.web import TOKEN_VARIABLE

if TYPE_CHECKING:
    from tda_dagster.web.guard import Access


def register(app: typer.Typer) -> None:
    """Add the command of this module to `app`."""
    app.command()(ui)


def ui(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port (0: any free one).")] = 3000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than this machine's needs a token.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="TDA_UI_HOSTS",
            help="Another name under which browsers reach the UI, NAME or NAME:PORT: that of a "
            "proxy, or of this machine.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN_VARIABLE,
            help="Ask visitors for this token: they open /?token=… once. The variable keeps it out "
            "of the list of processes.",
        ),
    ] = None,
) -> None:
    """Start the Dagster UI on this workspace, with Dagster's daemon."""
    console = Terminal(soft_wrap=True)
    workspace = open_workspace()
    _check_token(token, host)
    from tda_dagster.web.services import listen, serve

    listener = listen(host, port)
    port = listener.getsockname()[1]
    access = _access(host, port, allow_host or [], token)
    os.environ["TDA_WORKSPACE"] = str(workspace.root)
    console.say("comparing the store with Dagster, starting its servers…")
    failure = _reconcile()
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(workspace.dagster_home)))
    if failure and not home.is_dir():
        raise TdaError(failure)
    if failure:  # the graph can be looked at without the store
        console.say(("the store was not compared with Dagster:", "yellow"), f" {failure}")
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else _in_url(host)
    console.say(
        f"the UI is at http://{shown}:{port}/", "?token=…" if token else "", "; Ctrl-C ends it"
    )
    serve(listener, access)


def _check_token(token: str | None, host: str) -> None:
    from tda_dagster.web.guard import LEAST_TOKEN_LENGTH

    advice = f'e.g. {TOKEN_VARIABLE}="$(openssl rand -hex 16)"'
    if token is not None and len(token) < LEAST_TOKEN_LENGTH:
        raise TdaError(f"the token is shorter than {LEAST_TOKEN_LENGTH} characters; {advice}")
    if token is None and not _is_this_machine(host):
        raise TdaError(
            f"--host {host}: other machines may reach that address, and whoever does can run and "
            f"delete things; set a token, {advice}"
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _access(host: str, port: int, names: list[str], token: str | None) -> "Access":
    from tda_dagster.web.guard import Access, host_name

    try:
        hosts = [host_name(name) for name in names]
    except ValueError as error:
        raise TdaError(f"--allow-host: {error}") from None
    return Access(port, (*hosts, f"{_in_url(host)}:{port}"), token)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reconcile() -> str | None:
    """Make Dagster's folder and tell Dagster what is live, in a process of its own: this one stays
    small. Returns what went wrong."""
    command = [sys.executable, "-m", "tda_dagster.cli", "reconcile"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if not done.returncode:
        return None
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1].removeprefix("error: ")
