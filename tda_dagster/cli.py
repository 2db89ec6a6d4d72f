"""`tda`, the command line. Heavy imports wait until a command needs them."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tda_dagster import cli_bench, cli_history, cli_tracks
from tda_dagster.errors import TdaError
from tda_dagster.starting import announce

if TYPE_CHECKING:
    from tda_dagster.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which training tracks, and whose, shaped this generated piece of music.",
)
query_app = typer.Typer(no_args_is_help=True, help="The pieces to attribute.")
app.add_typer(query_app, name="query")
console = Console(soft_wrap=True)

CohortOption = Annotated[str, typer.Option("--cohort", "-c", help="Name of the cohort.")]


@app.command()
def run(
    cohort: Annotated[str, typer.Argument(help="The cohort to attribute.")] = "reference",
) -> None:
    """The main job: everything the cohort's attribution needs, then the answer."""
    announce(f"tda run {cohort}: reading the settings, starting Dagster…")
    workspace = _workspace()
    from tda_dagster.dvc_stages import RunRecord, write_outputs
    from tda_dagster.execution import materialize
    from tda_dagster.partitions import main_partitions
    from tda_dagster.stages_file import StagesFile
    from tda_dagster.summary import print_summary

    of_the_stages = cohort == StagesFile(workspace.root).cohort
    partitions = main_partitions(workspace, cohort)
    record = RunRecord(workspace)
    materialize(workspace, partitions, names=None, console=console)
    if of_the_stages:
        write_outputs(workspace, None)
        problem = record.commit()
        if problem is not None:
            announce(f"DVC was not told of this run: {problem}. `dvc repro` finds it in the store.")
    print_summary(workspace, cohort, console)


@app.command("materialize")
def materialize_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Asset groups or assets (default: all).")
    ] = None,
    cohort: CohortOption = "reference",
) -> None:
    """Materialise some of the graph. For the cohort of the stages in dvc.yaml, write what DVC
    compares, too: the groups' digests (data/digests) and, with the warehouse, the figures."""
    announce(" ".join(["tda materialize", *(names or [])]) + ": starting Dagster…")
    workspace = _workspace()
    from tda_dagster.dvc_stages import write_outputs
    from tda_dagster.execution import materialize
    from tda_dagster.partitions import main_partitions
    from tda_dagster.stages_file import StagesFile

    partitions = main_partitions(workspace, cohort)
    materialize(workspace, partitions, names=names, console=console)
    if cohort == StagesFile(workspace.root).cohort:
        write_outputs(workspace, names)


@app.command("inputs")
def inputs_command() -> None:
    """Lay out in data/inputs what the study reads from outside its store, for DVC to compare."""
    from tda_dagster.dvc_inputs import lay_out_inputs

    laid = lay_out_inputs(_workspace())
    console.print(f"linked {laid.links} files and folders in data/inputs", highlight=False)
    for unseen in laid.unseen:
        console.print(
            f"DVC cannot compare {unseen}, so dvc.yaml has it run `tda inputs` every time",
            highlight=False,
            markup=False,
        )


@app.command()
def experiment(
    name: Annotated[str | None, typer.Argument(help="Its name in params.yaml.")] = None,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Only say what it will cost.")
    ] = False,
) -> None:
    """Run an experiment of params.yaml, or list them: cohorts crossed with method specs."""
    announce("reading the settings, starting Dagster…")
    workspace = _workspace()
    from tda_dagster import experiments, partitions, summary

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
def partitions(
    cohort: Annotated[
        str | None, typer.Option("--cohort", "-c", help="Only the main job's of this cohort.")
    ] = None,
) -> None:
    """Register the cohorts and method specs with Dagster and list the partition keys: first those
    of the main job, of which the cohort of the stages in dvc.yaml comes first."""
    announce("starting Dagster…")
    workspace = _workspace()
    from tda_dagster.execution import instance
    from tda_dagster.partitions import declared_partitions, main_partitions, register

    known = declared_partitions(workspace) if cohort is None else main_partitions(workspace, cohort)
    with instance(workspace) as dagster:
        register(dagster, workspace, known)
    for partition in known:
        console.print(str(partition.key), highlight=False, markup=False)


@app.command()
def reconcile() -> None:
    """Tell Dagster of what is live in the store without it having seen it made: by another
    machine, or found unchanged by DVC."""
    announce("starting Dagster…")
    workspace = _workspace()
    from tda_dagster.execution import instance
    from tda_dagster.reconcile import reconcile

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
    announce("reading the warehouse…")
    workspace = _workspace()
    from tda_dagster.summary import print_summary

    print_summary(workspace, cohort, console)


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

    workspace = _workspace()
    raw: list[dict[str, object]] = []
    for text in prompt or []:
        raw.append({"prompt": text, "seed": seed, "seconds": seconds})
    for path in audio or []:
        try:
            soundfile.info(path)
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
    workspace = _workspace()
    for name in workspace.cohorts():
        console.print(f"[bold]{name}[/bold]")
        for number, query in enumerate(workspace.cohort(name).queries):
            what = query.prompt or query.audio or query.segment
            console.print(f"  {name}-{number:03d}  {query.kind:<9}  {what}", highlight=False)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port of the web server.")] = 3000) -> None:
    """Start the Dagster UI on this workspace (`dagster dev` with its home set)."""
    announce("starting Dagster…")
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
    """Lay out a new study: settings, a cohort, stages, a manifest to fill; say what comes next."""
    from tda_dagster.scaffold import lay_out, next_steps

    for path in lay_out(folder):
        console.print(f"wrote {path}", highlight=False, markup=False)
    console.print(next_steps(folder), highlight=False, markup=False)


cli_bench.register(app)
cli_history.register(app)
cli_tracks.register(app)


def _workspace() -> "Workspace":
    from tda_dagster.workspace import Workspace

    workspace = Workspace.find()
    _ = workspace.settings  # so that a mistake in params.yaml is told before anything starts
    return workspace


def main() -> None:
    """Run the command line; mistakes of the user end in one line, not in a traceback."""
    try:
        app()
    except TdaError as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {error}", highlight=False)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
