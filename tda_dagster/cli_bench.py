"""`tda bench`: attribution methods held against what retraining showed.

What belongs here: options and printing. Heavy imports wait until a command needs them.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tda_dagster.starting import announce
from tda_dagster.terminal import Terminal

if TYPE_CHECKING:
    from tda_dagster.workspace import Workspace

bench_app = typer.Typer(no_args_is_help=True, help="Methods held against ground truth.")

StudyOption = Annotated[
    Path | None,
    typer.Option("--study", help="A study's folder (default: the package's, in data/bench)."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.add_typer(bench_app, name="bench")


@bench_app.command()
def attribution(
    peers: Annotated[
        bool,
        typer.Option(
            "--peers",
            help="The methods of other libraries, too; bergson where TDA_BERGSON_PYTHON names it.",
        ),
    ] = False,
    ideas: Annotated[
        bool, typer.Option("--ideas", help="The methods under other settings, too.")
    ] = False,
    removal: Annotated[
        bool,
        typer.Option("--removal", help="Retrain without what each method found, where not stored."),
    ] = False,
    regenerate: Annotated[
        bool, typer.Option("--regenerate", help="Retrain everything, whatever is stored.")
    ] = False,
    study: StudyOption = None,
) -> None:
    """Score every method on the bench's study and print the verdict."""
    announce("opening the bench's study, starting Dagster…")
    from tda_dagster.bench import run_bench
    from tda_dagster.bench.peers.bergson import PYTHON_VARIABLE
    from tda_dagster.summary import print_bench

    workspace = _study(study, stored=not regenerate)
    experiments = ["bench", *["peers"] * peers, *["ideas"] * ideas]
    if peers and PYTHON_VARIABLE in os.environ:
        experiments.append("bergson")
    console = Terminal(soft_wrap=True)
    run_bench(workspace, experiments, removal=removal, console=console)
    print_bench(workspace, console)


@bench_app.command("ground-truth")
def ground_truth(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    study: StudyOption = None,
) -> None:
    """Write what retraining showed on the bench as the folders that ship with the package."""
    announce("opening the bench's study…")
    from tda_dagster.bench import export_ground_truth

    cohorts = export_ground_truth(_study(study), folder)
    Terminal(soft_wrap=True).print(f"wrote {folder}: {', '.join(cohorts)}")


@bench_app.command()
def calibrate(
    file: Annotated[Path, typer.Argument(help="Where to write it (JSON).")],
    study: StudyOption = None,
) -> None:
    """Write the support of every method that was measured on the bench: the weight of its evidence
    in shares, chosen on the choosing half of the queries. The package's is
    tda_dagster/attribution/support.json."""
    announce("opening the bench's study…")
    from tda_dagster.attribution.support import write_support
    from tda_dagster.bench import measured_on_bench

    found = measured_on_bench(_study(study))
    write_support(found, file)
    Terminal(soft_wrap=True).print(f"wrote {file}: {len(found)} methods")


def _study(folder: Path | None, *, stored: bool = True) -> "Workspace":
    from tda_dagster.bench import lay_out_study
    from tda_dagster.workspace import Workspace

    if folder is None:
        folder = Workspace.find().root / "data" / "bench"
        lay_out_study(folder, stored=stored)
    workspace = Workspace(folder.resolve())
    _ = workspace.settings  # so that a mistake in params.yaml is told before anything starts
    return workspace
