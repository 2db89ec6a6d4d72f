"""`tda`, the command line. Heavy imports wait until a command needs them."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tda_dagster import cli_bench, cli_history, cli_model, cli_queries, cli_tracks
from tda_dagster.errors import TdaError
from tda_dagster.faults import in_words
from tda_dagster.interruption import interruptible

if TYPE_CHECKING:
    from tda_dagster.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which training tracks, and whose, shaped this generated piece of music.",
)
console = Console(soft_wrap=True)

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

    workspace = _workspace()
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

    workspace = _workspace()
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

    workspace = _workspace()
    if name is None:
        for known in workspace.settings.experiments:
            wanted = partitions.experiment_partitions(workspace, known)
            console.print(f"[bold]{known:<18}[/bold] {len(wanted)} partitions", highlight=False)
        return
    if preflight:
        wanted = partitions.experiment_partitions(workspace, name)
        console.print(str(experiments.preflight(workspace, wanted)), highlight=False)
        return
    experiments.run_experiment(workspace, name, console)
    summary.print_experiment(workspace, name, console)


@app.command()
def partitions() -> None:
    """Register the cohorts and method specs with Dagster and list the partition keys, those of
    the main job first."""
    from tda_dagster.execution import instance
    from tda_dagster.partitions import declared_partitions, register

    workspace = _workspace()
    with instance(workspace) as dagster:
        known = declared_partitions(workspace)
        register(dagster, workspace, known)
        for partition in known:
            console.print(str(partition.key), highlight=False)


@app.command()
def reconcile() -> None:
    """Tell Dagster of what is live in the store without it having seen it made: by another
    machine, or found unchanged by DVC."""
    from tda_dagster.execution import instance
    from tda_dagster.reconcile import reconcile

    workspace = _workspace()
    with instance(workspace) as dagster:
        reported = reconcile(workspace, dagster)
    for live in reported:
        console.print(f"reported {live}", highlight=False, markup=False)
    if not reported:
        console.print("Dagster knows of everything that is live")


@app.command()
def summary(
    cohort: Annotated[str, typer.Argument(help="The cohort.")] = "reference",
) -> None:
    """The answer of an attributed cohort, from the warehouse."""
    from tda_dagster.summary import print_summary

    print_summary(_workspace(), cohort, console)


@app.command()
def sql(
    query: Annotated[
        str | None, typer.Argument(help="A query, or the name of an example (see --examples).")
    ] = None,
    examples: Annotated[bool, typer.Option("--examples", help="List the example queries.")] = False,
) -> None:
    """Query the attribution warehouse with SQL."""
    import polars as pl

    from warehouse import build

    if examples or query is None:
        for name in build.list_examples():
            title = build.example_sql(name).splitlines()[0].removeprefix("-- ")
            console.print(f"[bold]{name:<22}[/bold] {title}", highlight=False)
        return
    text = build.example_sql(query) if query in build.list_examples() else query
    answer = build.query(_workspace().database, text)
    if answer.shape == (1, 1):  # a long text, such as the data dictionary, is not for a table
        print(answer.item())
        return
    with pl.Config(
        tbl_rows=200,
        tbl_cols=50,
        fmt_str_lengths=60,
        tbl_width_chars=200,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_formatting="UTF8_BORDERS_ONLY",
    ):
        print(answer)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port of the web server.")] = 3000) -> None:
    """Start the Dagster UI on this workspace (`dagster dev` with its home set)."""
    from tda_dagster.execution import instance, prepare_home
    from tda_dagster.reconcile import reconcile

    workspace = _workspace()
    os.environ["DAGSTER_HOME"] = str(prepare_home(workspace))
    try:
        with instance(workspace) as known:
            reconcile(workspace, known)
    except TdaError as error:  # the graph can be looked at without the store
        console.print(f"[yellow]the store was not compared with Dagster:[/yellow] {error}")
    dagster = str(Path(sys.executable).with_name("dagster"))
    module = ["-m", "tda_dagster.definitions"]
    os.execv(dagster, [dagster, "dev", *module, "-h", "127.0.0.1", "-p", str(port)])


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write pipeline/ and music/.")],
) -> None:
    """Write the base model and the reference study's music as plain folders."""
    workspace = _workspace()
    for asset, name in (("base/checkpoint", "."), ("dataset/manifest", "music")):
        head = workspace.store.head(asset)
        if head is None:
            raise TdaError(f"{asset} has not been materialised; run `tda run` first")
        workspace.store.artifact(head.digest).export(folder / name)
        console.print(f"wrote {asset} to {folder / name}", highlight=False)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Lay out a new study: params.yaml, a cohort, dvc.yaml."""
    from tda_dagster.scaffold import lay_out

    for path in lay_out(folder):
        console.print(f"wrote {path}")


cli_bench.register(app)
cli_history.register(app)
cli_model.register(app)
cli_queries.register(app)
cli_tracks.register(app)


def _workspace() -> "Workspace":
    from tda_dagster.workspace import Workspace

    workspace = Workspace.find()
    _ = workspace.settings  # so that a mistake in params.yaml is told before anything starts
    return workspace


def main() -> None:
    """Run the command line; errors end in one line, not in a traceback."""
    with interruptible():
        try:
            app()
        except Exception as error:
            root = Path(os.environ.get("TDA_WORKSPACE") or Path.cwd())
            message = in_words(error, root, "tda")
            Console(stderr=True, soft_wrap=True).print(
                f"[red]error:[/red] {message}", highlight=False
            )
            raise SystemExit(1) from None


if __name__ == "__main__":
    main()
