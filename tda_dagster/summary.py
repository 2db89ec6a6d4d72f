"""The answer of an attribution in the terminal: per query, its tracks and whose they are."""

from rich.console import Console
from rich.markup import escape

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
SELECT title, composer, rightsholder, share FROM v_track_share
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
        console.print(f"[bold]{row['query_id']}[/bold]  “{escape(row['prompt'])}”", highlight=False)
        for track in query(database, _TRACKS, [*key, TOP_TRACKS]).iter_rows(named=True):
            console.print(
                f"  {track['share']:6.1%}  {escape(track['title'])} [dim]by[/dim] "
                f"{escape(track['composer'])} [dim]·[/dim] {escape(track['rightsholder'])}",
                highlight=False,
            )
        shares = query(database, _SHARES, key)
        named = (f"{escape(name)} {share:.1%}" for name, share in shares.iter_rows())
        console.print("  [dim]whose:[/dim]  " + ", ".join(named), highlight=False)
    console.print()
    console.print("warehouse  " + _short(workspace, database), highlight=False)
    console.print(
        "report     " + _short(workspace, workspace.reports / f"{cohort}.html"), highlight=False
    )
    console.print('query it   tda sql --examples, or: tda sql "select * from v_query_summary"')


def _short(workspace: Workspace, path: object) -> str:
    text = str(path)
    return text.removeprefix(f"{workspace.root}/")
