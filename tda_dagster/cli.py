"""`tda`, the command line. Heavy imports wait until a command needs them."""

import io
import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tda_dagster import (
    cli_bench,
    cli_history,
    cli_model,
    cli_queries,
    cli_sql,
    cli_tracks,
    cli_ui,
)
from tda_dagster.cli_workspace import open_workspace
from tda_dagster.errors import TdaError
from tda_dagster.faults import in_words
from tda_dagster.interruption import interruptible
from tda_dagster.masking import masked
from tda_dagster.starting import announce
from tda_dagster.terminal import PlainFormatter, Terminal

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which training tracks, and whose, shaped this generated piece of music.",
)
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
    announce(f"tda run {cohort}: reading the settings, starting Dagster…")
    workspace = open_workspace()
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
    workspace = open_workspace()
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

    laid = lay_out_inputs(open_workspace())
    console.print(f"linked {laid.links} files and folders in data/inputs")
    for unseen in laid.unseen:
        console.print(
            f"DVC cannot compare {unseen}, so dvc.yaml has it run `tda inputs` every time",
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
    workspace = open_workspace()
    from tda_dagster import experiments, partitions, summary

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
def partitions(
    cohort: Annotated[
        str | None, typer.Option("--cohort", "-c", help="Only the main job's of this cohort.")
    ] = None,
) -> None:
    """Register the cohorts and method specs with Dagster and list the partition keys: first those
    of the main job, of which the cohort of the stages in dvc.yaml comes first."""
    announce("starting Dagster…")
    workspace = open_workspace()
    from tda_dagster.execution import instance
    from tda_dagster.partitions import declared_partitions, main_partitions, register

    known = declared_partitions(workspace) if cohort is None else main_partitions(workspace, cohort)
    with instance(workspace) as dagster:
        register(dagster, workspace, known)
    for partition in known:
        console.print(str(partition.key))


@app.command()
def reconcile() -> None:
    """Tell Dagster of what is live in the store without it having seen it made: by another
    machine, or found unchanged by DVC."""
    announce("starting Dagster…")
    workspace = open_workspace()
    from tda_dagster.execution import instance
    from tda_dagster.reconcile import reconcile

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
    announce("reading the warehouse…")
    workspace = open_workspace()
    from tda_dagster.summary import print_summary

    print_summary(workspace, cohort, console)


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
    """Lay out a new study: settings, a cohort, stages, a manifest to fill; say what comes next."""
    from tda_dagster.scaffold import lay_out, next_steps

    for path in lay_out(folder):
        console.print(f"wrote {path}")
    console.print(next_steps(folder))


cli_bench.register(app)
cli_history.register(app)
cli_model.register(app)
cli_queries.register(app)
cli_sql.register(app)
cli_tracks.register(app)
cli_ui.register(app)


def main() -> None:
    """Run the command line; errors end in one line, not in a traceback."""
    if logging.lastResort is not None:  # prints warnings where nothing else is set up
        logging.lastResort.setFormatter(PlainFormatter())
    with interruptible():
        raise SystemExit(_exit_code())


def _exit_code() -> int:
    """Run the command line and print what went wrong; returns the exit code."""
    try:
        return app(standalone_mode=False) or 0
    except _CommandLineError as error:
        said = io.StringIO()
        error.show(file=said)
        Terminal(stderr=True).say(said.getvalue().rstrip())
        return int(error.exit_code)
    except typer.Abort:
        Terminal(stderr=True).say("aborted")
        return 1
    except Exception as error:
        root = Path(os.environ.get("TDA_WORKSPACE") or Path.cwd())
        Terminal(stderr=True).say(("error:", "red"), f" {masked(in_words(error, root, 'tda'))}")
        return 1


if __name__ == "__main__":
    main()
