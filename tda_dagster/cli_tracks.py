"""`tda takedown` and `tda growth`: tracks that go and come.

What belongs here: options and printing. Heavy imports wait until a command needs them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tda_dagster.cli_workspace import open_workspace
from tda_dagster.starting import announce
from tda_dagster.terminal import Terminal, one_line, styled

if TYPE_CHECKING:
    from tda_dagster.turnover import Forecast, Turnover
    from tda_dagster.workspace import Workspace

CohortOption = Annotated[str, typer.Option("--cohort", "-c", help="Name of the cohort.")]

_SHOWN_TRACKS = 8
_SHOWN_CAUSES = 2


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command()(takedown)
    app.command()(growth)


def takedown(
    tracks: Annotated[list[str], typer.Argument(help="Ids of the tracks.")],
    apply: Annotated[
        bool, typer.Option("--apply", help="Write it into params.yaml; without this only told.")
    ] = False,
    cohort: CohortOption = "reference",
) -> None:
    """What leaving tracks out would take, what would stay, and what still holds them."""
    announce("reading the settings and the live dataset…")
    workspace, console = open_workspace(), Terminal()
    from tda_dagster import turnover
    from tda_dagster.params_file import put_setting
    from tda_dagster.settings import PARAMS_FILE

    _print(workspace, turnover.takedown(workspace, tracks), cohort, console)
    if apply:
        left_out = dict.fromkeys([*workspace.settings.dataset.taken_down, *tracks])
        put_setting(workspace.root / PARAMS_FILE, "dataset", "taken_down", list(left_out))
        console.print("params.yaml: dataset.taken_down lists them; `tda run` leaves them out")
    else:
        console.print("nothing was changed; `--apply` writes it into params.yaml")


def growth(cohort: CohortOption = "reference") -> None:
    """What taking in the manifest's new tracks would take, and what would stay."""
    announce("reading the settings and the manifest…")
    workspace = open_workspace()
    from tda_dagster import turnover

    _print(workspace, turnover.growth(workspace), cohort, Terminal())


def _print(workspace: "Workspace", change: "Turnover", cohort: str, console: Terminal) -> None:
    from tda_dagster.partitions import main_partitions
    from tda_dagster.turnover import caveats, forecast

    for label, names in (
        ("come", change.came),
        ("go", change.went),
        ("other captions", change.recaptioned),
        ("change sides (training, held out)", change.changed_sides),
    ):
        if names:
            shown = one_line(_listed(names, _SHOWN_TRACKS))
            console.say((label, "bold"), f" {len(names)}: {shown}")
    if not change.touched and not change.went:
        console.print("the tracks are those of the live dataset; nothing is to be done")
        return
    console.print(f"{change.touched} of {change.shards} shards are new")
    console.print(_table(forecast(workspace, change, main_partitions(workspace, cohort))))
    for sentence in caveats(workspace, change):
        console.say(f"• {sentence}")


def _table(forecasts: Sequence["Forecast"]) -> Table:
    """A line per asset and, where its partitions fare differently, per partition."""
    table = Table(box=SIMPLE_HEAD, header_style="dim")
    table.add_column("asset", no_wrap=True)
    table.add_column("what becomes of it", no_wrap=True)
    table.add_column("because of", overflow="fold")
    fates: dict[str, dict[tuple[str, str], list[str]]] = {}
    for each in forecasts:
        fate = (each.effect.value, _listed(each.because, _SHOWN_CAUSES))
        fates.setdefault(each.asset, {}).setdefault(fate, []).append(each.partition)
    for asset, by_fate in fates.items():
        for (effect, because), places in by_fate.items():
            where = f" {one_line(_listed(places, 1))}" if len(by_fate) > 1 else ""
            table.add_row(styled(asset, (where, "dim")), effect, because)
    return table


def _listed(names: Sequence[str], most: int) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
