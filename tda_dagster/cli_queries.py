"""`tda query`: the pieces to attribute.

What belongs here: options and printing. What a query must be is in `workspace` and `queries`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tda_dagster.cli_workspace import open_workspace
from tda_dagster.errors import TdaError
from tda_dagster.terminal import Terminal

if TYPE_CHECKING:
    from tda_dagster.queries import QueryCheck
    from tda_dagster.workspace import Query, Workspace

query_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The pieces to attribute."
)

CohortOption = Annotated[str, typer.Option("--cohort", "-c", help="Name of the cohort.")]
_SHOWN_TEXT = 80


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.add_typer(query_app, name="query")


@query_app.command()
def add(
    prompt: Annotated[list[str] | None, typer.Option(help="Generate from this prompt.")] = None,
    audio: Annotated[list[Path] | None, typer.Option(help="Attribute this audio file.")] = None,
    segment: Annotated[
        list[str] | None, typer.Option(help="Unlearn this training segment (self-influence).")
    ] = None,
    caption: Annotated[str | None, typer.Option(help="Caption of the audio file.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the generation.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length to generate, s.")] = None,
    cohort: CohortOption = "mine",
) -> None:
    """Add queries to a cohort (its file is cohorts/NAME.yaml). What can never be attributed is
    refused, and nothing is added."""
    _no_option_in_vain({"--seed": seed, "--seconds": seconds}, needs="--prompt", given=bool(prompt))
    _no_option_in_vain({"--caption": caption}, needs="--audio", given=bool(audio))
    options = {"seed": seed, "seconds": seconds}
    generation = {name: value for name, value in options.items() if value is not None}
    declared: list[tuple[str, dict[str, object]]] = [
        (f"--prompt {_short(text)}: ", {"prompt": text, **generation}) for text in prompt or []
    ]
    workspace = open_workspace()
    for path in audio or []:
        named = {} if caption is None else {"caption": caption}
        declared.append(
            (f"--audio {_short(str(path))}: ", {"audio": _in(workspace, path), **named})
        )
    declared += [(f"--segment {_short(name)}: ", {"segment": name}) for name in segment or []]
    if not declared:
        raise TdaError("nothing to add: give --prompt, --audio or --segment")
    _add(workspace, cohort, declared)


def _add(
    workspace: "Workspace", cohort: str, declared: list[tuple[str, dict[str, object]]]
) -> None:
    from tda_dagster.queries import QueryCheck
    from tda_dagster.settings import validated
    from tda_dagster.workspace import Query

    check = QueryCheck(workspace)
    queries, said = [], []
    for where, raw in declared:
        query: Query = validated(Query, raw, where.removesuffix(": "))
        said.append(_checked(check, query, where))
        queries.append(query)
    console = Terminal(soft_wrap=True)
    for piece, text in zip(workspace.add_queries(cohort, queries), said, strict=True):
        console.print(f"{piece}  {text}")
    path = workspace.cohort_file(cohort).relative_to(workspace.root)
    console.print(f"{len(queries)} added to {path}; now: tda run {cohort}")


def _checked(check: "QueryCheck", query: "Query", where: str) -> str:
    """What is known of a query, for people. Raises TdaError if it cannot be attributed."""
    found = check(query, where)
    if query.kind == "segment" and found.is_open and check.knows_segments:
        raise TdaError(
            f"{where}the dataset has no such segment; its segments are listed by "
            '`tda sql "select segment_id from dim_segment"`, and `tda materialize dataset` takes '
            "in what is new in the manifest"
        )
    name = _short(query.prompt or query.audio or query.segment or "")
    if found.length is not None:
        return f"{name}: {found.length}"
    later = " (the rest is checked when the study is run)" if found.is_open else ""
    return f"{name}{later}"


def _no_option_in_vain(options: dict[str, object], *, needs: str, given: bool) -> None:
    for name, value in options.items():
        if value is not None and not given:
            raise TdaError(f"{name} belongs to {needs}, and none is given; leave it out")


def _in(workspace: "Workspace", path: Path) -> str:
    """A file's path as a cohort names it: relative to the workspace where it is inside."""
    place = path.resolve()
    inside = place.is_relative_to(workspace.root)
    return str(place.relative_to(workspace.root) if inside else place)


def _short(text: str) -> str:
    """A user's text as it may stand in a line: escaped, and not longer than that."""
    shown = text if text.isprintable() else ascii(text)
    return shown if len(shown) <= _SHOWN_TEXT else f"{shown[: _SHOWN_TEXT - 1]}…"


@query_app.command("list")
def list_queries() -> None:
    """List all cohorts and their queries."""
    workspace, console = open_workspace(), Terminal(soft_wrap=True)
    from tda_dagster.workspace import piece_id

    for name in workspace.cohorts():
        console.say((name, "bold"))
        cohort = workspace.cohort(name)
        if cohort.targets is not None:
            chosen = cohort.targets
            console.print(f"  {chosen.count} segments chosen among {chosen.among}")
        for number, query in enumerate(cohort.queries):
            what = _short(query.prompt or query.audio or query.segment or "")
            console.print(
                f"  {piece_id(name, number)}  {query.kind:<9}  {what}",
            )
