"""The answer of an attribution in the terminal: per query, its tracks and whose they are."""

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from tda_dagster.errors import TdaError
from tda_dagster.workspace import Workspace
from warehouse.build import query

TOP_TRACKS = 3

_QUERIES = """
SELECT s.query_id, s.method_id, m.label, s.prompt, s.kind, s.unattributed
FROM v_query_summary s JOIN dim_method m USING (method_id)
WHERE s.cohort = ? ORDER BY s.method_id, s.query_index
"""
_TRACKS = """
SELECT title, composer, artist, rightsholder, share, best_z FROM v_track_share
WHERE query_id = ? AND method_id = ? ORDER BY track_rank LIMIT ?
"""
_SHARES = """
SELECT rightsholder, share FROM v_rightsholder_share
WHERE query_id = ? AND method_id = ? AND share >= 0.005
ORDER BY is_unattributed, share DESC
"""


def print_summary(workspace: Workspace, cohort: str, console: Console) -> None:
    """Print each query's most influential tracks and rightsholders, and where the rest is."""
    database = workspace.database
    queries = query(database, _QUERIES, [cohort])
    if queries.is_empty():
        raise TdaError(f"cohort {cohort!r} has no scores in {database}; run `tda run {cohort}`")
    for row in queries.iter_rows(named=True):
        key: list[object] = [row["query_id"], row["method_id"]]
        console.print()
        console.print(f"[bold]{row['query_id']}[/bold]  “{escape(row['prompt'])}”")
        tracks = Table(box=None)
        for heading in ("most influential tracks", "composer", "rightsholder"):
            tracks.add_column(heading, no_wrap=True, overflow="ellipsis")
        tracks.add_column("share", justify="right")
        tracks.add_column("z", justify="right")
        for track in query(database, _TRACKS, [*key, TOP_TRACKS]).iter_rows(named=True):
            tracks.add_row(
                escape(track["title"]),
                escape(track["composer"]),
                escape(track["rightsholder"]),
                f"{track['share']:.1%}",
                f"{track['best_z']:.1f}",
            )
        console.print(Padding(tracks, (0, 0, 0, 2)))
        shares = query(database, _SHARES, key)
        named = (f"{escape(name)} {share:.1%}" for name, share in shares.iter_rows())
        console.print("  [dim]shares:[/dim] " + ", ".join(named), highlight=False)
    console.print()
    console.print("warehouse  " + _short(workspace, database), highlight=False)
    console.print(
        "report     " + _short(workspace, workspace.reports / f"{cohort}.html"), highlight=False
    )
    console.print('query it   tda sql --examples, or: tda sql "select * from v_query_summary"')


def _short(workspace: Workspace, path: object) -> str:
    text = str(path)
    return text.removeprefix(f"{workspace.root}/")
