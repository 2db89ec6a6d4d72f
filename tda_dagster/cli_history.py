"""`tda lineage`, `verify`, `gc`, `snapshot` and `diff`: what was, and whether it still is.

What belongs here: options and printing. Heavy imports wait until a command needs them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tda_dagster.cli_workspace import open_workspace
from tda_dagster.errors import TdaError
from tda_dagster.terminal import Terminal, json_text

snapshot_app = typer.Typer(no_args_is_help=True, help="States of the study, kept under a name.")

AtOption = Annotated[str, typer.Option("--at", help="A snapshot, or live: the present.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for command in (lineage, diff, verify):
        app.command()(command)
    app.command("gc")(gc)
    app.add_typer(snapshot_app, name="snapshot")


def lineage(
    query: Annotated[str, typer.Argument(help="A query's id, e.g. reference-000.")],
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="A method's name, or its id's beginning.")
    ] = None,
    segment: Annotated[str | None, typer.Option(help="Only this segment's score.")] = None,
    track: Annotated[str | None, typer.Option(help="Only this track's best segment.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many tracks.")] = 5,
    at: AtOption = "live",
) -> None:
    """The way from a query's score back to the audio files it stands on."""
    from tda_dagster.history.render import lineage_view
    from tda_dagster.history.score_lineage import score_lineage
    from tda_dagster.store.snapshots import open_view

    workspace = open_workspace()
    found = score_lineage(
        open_view(workspace.store, at),
        query,
        method=method,
        preferred=workspace.settings.methods,
        segment=segment,
        track=track,
        top=top,
    )
    Terminal().print(lineage_view(found))


def verify(
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Everything in the store, also the shards that only resuming needs and what was "
            "live once, and the copies in data/cache.",
        ),
    ] = False,
) -> None:
    """Hash everything again that live artifacts and snapshots need; name what is damaged.

    Exit code 1 if something is. A damaged file is noted in the store, so that running what makes
    it again replaces it.
    """
    from tda_dagster.history.render import problem_lines
    from tda_dagster.store.verification import verify_everything, verify_needed

    console = Terminal()
    store = open_workspace().store
    seen = 0

    with _bar(console, "verifying") as show:

        def progress(done: int, total: int) -> None:
            nonlocal seen
            seen = done
            show(done, total)

        problems = (verify_everything if everything else verify_needed)(store, progress)
    for line in problem_lines(problems):
        console.print(line, soft_wrap=True)
    if problems:
        damaged = len({problem.path for problem in problems})
        console.say((f"{damaged} damaged", "red"), f" in {store.root}")
        raise typer.Exit(1)
    what = "all there is" if everything else "all that live artifacts and snapshots need"
    console.say(
        ("✓", "green"), f" {seen / 1e6:.1f} MB hashed, {what}: everything is what it was made as"
    )


def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove it; without this it is only counted.")
    ] = False,
    grace_hours: Annotated[
        float,
        typer.Option(min=0.0, help="Keep what is younger, h: it may be part of a run under way."),
    ] = 24.0,
) -> None:
    """Remove what no live artifact and no snapshot needs (see `tda snapshot`)."""
    from datetime import timedelta

    from tda_dagster.history.render import collection_table
    from tda_dagster.store.collection import collect, plan_collection

    console = Terminal()
    store = open_workspace().store
    plan = plan_collection(store, grace=timedelta(hours=grace_hours))
    if plan.young_blobs:
        young = (
            f"{plan.young_blobs} blobs that nothing needs are younger than {grace_hours:g} h "
            "and stay: they may belong to a run that is still at work"
        )
        console.say((young, "dim"))
    kept = f"{plan.kept_refs} refs and {plan.kept_blobs} blobs stay"
    kept += f" ({plan.kept_size_bytes / 1e6:.1f} MB)"
    if not (plan.refs or plan.blobs or plan.claims):
        console.say(f"nothing to remove; {kept}")
        return
    console.print(collection_table(plan))
    console.say((kept, "dim"))
    if not delete:
        console.say("nothing was removed; `tda gc --delete` does it")
        return
    with _bar(console, "removing") as show:
        done = collect(store, plan, show)
    console.say(f"removed {done.refs} refs and {done.blobs} blobs, {done.size_bytes / 1e6:.1f} MB")


@snapshot_app.command("add")
def snapshot_add(
    name: Annotated[str, typer.Argument(help="Letters, digits, '.', '-' and '_'.")],
    note: Annotated[str, typer.Option(help="What to remember about it.")] = "",
) -> None:
    """Keep the study's present state under a name."""
    from tda_dagster.store.snapshots import add_snapshot

    taken = add_snapshot(open_workspace().store, name, note)
    Terminal().say(
        f"snapshot {name}: {len(taken.pins)} artifacts, kept until `tda snapshot remove {name}`",
    )


@snapshot_app.command("list")
def snapshot_list() -> None:
    """List all snapshots, oldest first."""
    from tda_dagster.history.render import snapshot_table
    from tda_dagster.store.snapshots import list_snapshots

    found = list_snapshots(open_workspace().store)
    console = Terminal()
    if not found:
        console.say("no snapshots yet; `tda snapshot add NAME` makes one")
        return
    console.print(snapshot_table(found))


@snapshot_app.command("remove")
def snapshot_remove(name: Annotated[str, typer.Argument(help="The snapshot.")]) -> None:
    """Forget a snapshot; `tda gc` may then remove what only it needed."""
    from tda_dagster.store.snapshots import remove_snapshot

    removed = remove_snapshot(open_workspace().store, name)
    Terminal().say(
        f"removed snapshot {name} ({len(removed.pins)} artifacts; what nothing else needs is "
        "still there until `tda gc --delete`)",
    )


@snapshot_app.command("warehouse")
def snapshot_warehouse(
    name: Annotated[str, typer.Argument(help="The snapshot.")],
    out: Annotated[Path, typer.Option(help="The DuckDB file to write.")],
) -> None:
    """Build the attribution warehouse as it was, as a database file of its own."""
    from tda_dagster.history.content import build_database
    from tda_dagster.store.snapshots import open_snapshot

    workspace = open_workspace()
    if out.resolve() == workspace.database.resolve():
        raise TdaError(f"{out} is the present warehouse; name another file")
    built = build_database(open_snapshot(workspace.store, name), f"snapshot {name}", out)
    console, rows = Terminal(), built.report.rows
    for table, reason in built.left_out.items():
        console.say(
            (f"{table} is empty:", "yellow"),
            f" its rows of that time do not fit the present tables ({reason})",
        )
    console.say(f"wrote {out}: {rows['fct_score']} scores of {rows['dim_query']} queries")


def diff(
    before: Annotated[str, typer.Argument(help="A snapshot, or live.")],
    after: Annotated[str, typer.Argument(help="A snapshot, or live.")] = "live",
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """What differs between two states' scores and shares, and why."""
    from dataclasses import asdict

    from tda_dagster.history.difference import compare
    from tda_dagster.history.render import difference_view
    from tda_dagster.store.snapshots import open_view

    store = open_workspace().store
    found = compare(open_view(store, before), before, open_view(store, after), after)
    if as_json:
        whole = asdict(found)
        for cause, plain in zip(found.causes, whole["causes"], strict=True):
            plain["sentence"] = str(cause)
        print(json_text(whole))
        return
    Terminal().print(difference_view(found))


@contextmanager
def _bar(console: Terminal, doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar while something goes on; gone afterwards. Yields what to tell how far it is."""
    columns = (
        TextColumn(doing, markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bars:
        task = bars.add_task(doing, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
