"""`tda`, the command line. Heavy imports wait until a command needs them."""

import io
import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tda_dagster import cli_bench, cli_history, cli_sql, cli_tracks, cli_ui
from tda_dagster.cli_workspace import open_workspace
from tda_dagster.errors import TdaError
from tda_dagster.terminal import PlainFormatter, Terminal, one_line

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which training tracks, and whose, shaped this generated piece of music.",
)
query_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The pieces to attribute."
)
app.add_typer(query_app, name="query")
console = Terminal(soft_wrap=True)

# Typer brings its own copy of click, or uses click itself, depending on the version.
_CommandLineError: Any = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

CohortOption = Annotated[str, typer.Option("--cohort", "-c", help="Name of the cohort.")]


@app.command()
def run(
    cohort: Annotated[str, typer.Argument(help="The cohort to attribute.")] = "reference",
) -> None:
    """The main job: everything the cohort's attribution needs, then the answer."""
    from tda_dagster.dvc_figures import write_figures
    from tda_dagster.execution import materialize, write_digests
    from tda_dagster.partitions import main_partitions
    from tda_dagster.summary import print_summary

    workspace = open_workspace()
    partitions = main_partitions(workspace, cohort)
    materialize(workspace, partitions, names=None, console=console)
    write_digests(workspace, cohort, None)
    write_figures(workspace, cohort)
    print_summary(workspace, cohort, console)


@app.command("materialize")
def materialize_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Asset groups or assets (default: all).")
    ] = None,
    cohort: CohortOption = "reference",
) -> None:
    """Materialise some of the graph and list the groups' digests in data/digests/GROUP.json; with
    the warehouse, write the figures that DVC compares."""
    from tda_dagster.dvc_figures import write_figures
    from tda_dagster.execution import materialize, write_digests
    from tda_dagster.partitions import main_partitions

    workspace = open_workspace()
    partitions = main_partitions(workspace, cohort)
    materialize(workspace, partitions, names=names, console=console)
    write_digests(workspace, cohort, names)
    if names is None or {"warehouse", "warehouse/duckdb"} & set(names):
        write_figures(workspace, cohort)


@app.command()
def experiment(
    name: Annotated[str | None, typer.Argument(help="Its name in params.yaml.")] = None,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Only say what it will cost.")
    ] = False,
) -> None:
    """Run an experiment of params.yaml, or list them: cohorts crossed with method specs."""
    from tda_dagster import experiments, partitions, summary

    workspace = open_workspace()
    if name is None:
        for known in workspace.settings.experiments:
            wanted = partitions.experiment_partitions(workspace, known)
            console.say((f"{known:<18}", "bold"), f" {len(wanted)} partitions")
        return
    if preflight:
        wanted = partitions.experiment_partitions(workspace, name)
        console.print(str(experiments.preflight(workspace, wanted)))
        return
    experiments.run_experiment(workspace, name, console)
    summary.print_experiment(workspace, name, console)


@app.command()
def partitions() -> None:
    """Register the cohorts and method specs with Dagster and list the partition keys, those of
    the main job first."""
    from tda_dagster.execution import instance
    from tda_dagster.partitions import declared_partitions, register

    workspace = open_workspace()
    with instance(workspace) as dagster:
        known = declared_partitions(workspace)
        register(dagster, workspace, known)
        for partition in known:
            console.print(str(partition.key))


@app.command()
def reconcile() -> None:
    """Tell Dagster of what is live in the store without it having seen it made: by another
    machine, or found unchanged by DVC."""
    from tda_dagster.execution import instance
    from tda_dagster.reconcile import reconcile

    workspace = open_workspace()
    with instance(workspace) as dagster:
        reported = reconcile(workspace, dagster)
    for live in reported:
        console.print(f"reported {live}")
    if not reported:
        console.print("Dagster knows of everything that is live")


@app.command()
def summary(
    cohort: Annotated[str, typer.Argument(help="The cohort.")] = "reference",
) -> None:
    """The answer of an attributed cohort, from the warehouse."""
    from tda_dagster.summary import print_summary

    print_summary(open_workspace(), cohort, console)


@query_app.command("add")
def query_add(
    prompt: Annotated[list[str] | None, typer.Option(help="Generate from this prompt.")] = None,
    audio: Annotated[list[Path] | None, typer.Option(help="Attribute this audio file.")] = None,
    segment: Annotated[
        list[str] | None, typer.Option(help="Unlearn this training segment (self-influence).")
    ] = None,
    caption: Annotated[str, typer.Option(help="Caption of the audio file.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the generation.")] = 0,
    seconds: Annotated[float | None, typer.Option(help="Length to generate, s.")] = None,
    cohort: CohortOption = "mine",
) -> None:
    """Add queries to a cohort (its file is cohorts/NAME.yaml)."""
    import soundfile

    from tda_dagster.settings import validated
    from tda_dagster.workspace import Query

    workspace = open_workspace()
    raw: list[dict[str, object]] = []
    for text in prompt or []:
        raw.append({"prompt": text, "seed": seed, "seconds": seconds})
    for path in audio or []:
        try:
            soundfile.info(os.fsencode(path))  # a name may be no UTF-8
        except soundfile.LibsndfileError as error:
            raise TdaError(f"{path}: not a readable audio file: {error}") from None
        inside = path.resolve().is_relative_to(workspace.root)
        name = path.resolve().relative_to(workspace.root) if inside else path.resolve()
        raw.append({"audio": str(name), "caption": caption})
    raw += [{"segment": name} for name in segment or []]
    if not raw:
        raise TdaError("nothing to add: give --prompt, --audio or --segment")
    queries = [validated(Query, item, "query") for item in raw]
    path = workspace.add_queries(cohort, queries)
    console.print(
        f"{len(queries)} added to {path.relative_to(workspace.root)}; now: tda run {cohort}"
    )


@query_app.command("list")
def query_list() -> None:
    """List all cohorts and their queries."""
    workspace = open_workspace()
    for name in workspace.cohorts():
        console.say((name, "bold"))
        for number, query in enumerate(workspace.cohort(name).queries):
            what = query.prompt or query.audio or query.segment
            console.print(f"  {name}-{number:03d}  {query.kind:<9}  {one_line(what)}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write pipeline/ and music/.")],
) -> None:
    """Write the base model and the reference study's music as plain folders."""
    workspace = open_workspace()
    for asset, name in (("base/checkpoint", "."), ("dataset/manifest", "music")):
        head = workspace.store.head(asset)
        if head is None:
            raise TdaError(f"{asset} has not been materialised; run `tda run` first")
        workspace.store.artifact(head.digest).export(folder / name)
        console.print(f"wrote {asset} to {folder / name}")


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Lay out a new study: params.yaml, a cohort, dvc.yaml."""
    from tda_dagster.scaffold import lay_out

    for path in lay_out(folder):
        console.print(f"wrote {path}")


cli_bench.register(app)
cli_history.register(app)
cli_sql.register(app)
cli_tracks.register(app)
cli_ui.register(app)


def main() -> None:
    """Run the command line; mistakes of the user end in one line, not in a traceback."""
    if logging.lastResort is not None:  # prints warnings where nothing else is set up
        logging.lastResort.setFormatter(PlainFormatter())
    try:
        code = app(standalone_mode=False)
    except TdaError as error:
        Terminal(stderr=True).say(("error:", "red"), f" {error}")
        code = 1
    except _CommandLineError as error:
        said = io.StringIO()
        error.show(file=said)
        Terminal(stderr=True).say(said.getvalue().rstrip())
        code = error.exit_code
    except typer.Abort:
        Terminal(stderr=True).say("aborted")
        code = 1
    raise SystemExit(code or 0)


if __name__ == "__main__":
    main()
