"""The answer of an attribution in the terminal: per query, its tracks and whose they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from tda_dagster.attribution.methods import method_specs
from tda_dagster.errors import TdaError
from tda_dagster.terminal import Styled, Terminal, one_line
from tda_dagster.workspace import Workspace
from warehouse.build import query

TOP_TRACKS = 3

_PIECES = """
SELECT s.piece_id, s.method_id, m.label, s.prompt, s.kind, s.prominence, s.seconds, s.windows
FROM v_piece_summary s JOIN dim_method m USING (method_id)
WHERE s.cohort = ? AND list_contains(?, s.method_id) ORDER BY s.method_id, s.query_index
"""
_TRACKS = """
SELECT title, composer, rightsholder, share FROM v_piece_track_share
WHERE piece_id = ? AND method_id = ? ORDER BY track_rank LIMIT ?
"""
_SHARES = """
SELECT rightsholder, share FROM v_piece_rightsholder_share
WHERE piece_id = ? AND method_id = ? AND share >= 0.005
ORDER BY is_unattributed, share DESC
"""
_PAYOUTS = """
SELECT rightsholder, payout, payout_low, payout_high FROM v_piece_rightsholder_share
WHERE piece_id = ? AND method_id = ? AND NOT is_unattributed AND payout >= 0.005
ORDER BY payout DESC, rightsholder
"""
_WINDOWS = """
SELECT w.query_id, w.start_s, w.seconds, w.silent, w.unattributed, s.top_title,
    s.top_rightsholder, s.top_track_share
FROM v_piece_window w LEFT JOIN v_query_summary s USING (query_id, method_id)
WHERE w.piece_id = ? AND w.method_id = ? ORDER BY w.window_index
"""
SHOWN_WINDOWS = 12
_PAID = """\
paid: the shares, and the unattributed part pro rata by seconds trained on; in brackets, where it
was measured, the range that holds the true share in 90 of 100 cases"""


def print_summary(workspace: Workspace, cohort: str, console: Terminal) -> None:
    """Print each piece's most influential tracks and rightsholders, where the rest is, and, of a
    piece of several windows, what stands out in each."""
    database = workspace.database
    methods = [spec.method_id for spec in method_specs(workspace.settings)]
    pieces = query(database, _PIECES, [cohort, methods])
    if pieces.is_empty():
        raise TdaError(f"cohort {cohort!r} has no scores in {database}; run `tda run {cohort}`")
    for row in pieces.iter_rows(named=True):
        key: list[object] = [row["piece_id"], row["method_id"]]
        console.print()
        console.say((row["piece_id"], "bold"), f"  “{one_line(row['prompt'])}”")
        for track in query(database, _TRACKS, [*key, TOP_TRACKS]).iter_rows(named=True):
            console.say(
                f"  {track['share']:6.1%}  {one_line(track['title'])} ",
                ("by", "dim"),
                f" {one_line(track['composer'])} ",
                ("·", "dim"),
                f" {one_line(track['rightsholder'])}",
            )
        shares = query(database, _SHARES, key)
        named = (f"{one_line(name)} {share:.1%}" for name, share in shares.iter_rows())
        console.say(("  whose:", "dim"), "  " + ", ".join(named))
        payouts = query(database, _PAYOUTS, key)
        console.say(("  paid:", "dim"), "   " + ", ".join(map(_payout, payouts.iter_rows())))
        stands_out = f"{row['prominence']:.1f} times as far as noise would"
        console.say((f"  the best segment stands out {stands_out}", "dim"))
        if row["windows"] > 1:
            _print_windows(database, key, row, console)
    console.print()
    console.print(_PAID, style="dim")
    page = workspace.reports / f"{cohort}.html"
    console.print(f"report     {_short(workspace, page)}  (open it to listen)")
    console.print(f"warehouse  {_short(workspace, database)}")
    console.print("ask it     tda sql rightsholder_shares  (more: tda sql --examples)")
    console.print(
        'next       tda query add --prompt "…", then tda run mine; tda ui shows the graph'
    )


def _payout(row: tuple[str, float, float | None, float | None]) -> str:
    """What a rightsholder is paid, and the interval of it where that was measured."""
    name, payout, low, high = row
    interval = "" if low is None or high is None else f" ({low:.0%} to {high:.0%})"
    return f"{one_line(name)} {payout:.1%}{interval}"


def _print_windows(
    database: Path, key: list[object], piece: dict[str, Any], console: Terminal
) -> None:
    """Print what stands out in each window of a piece."""
    console.say((f"  {piece['seconds']:.1f} s in {piece['windows']} windows:", "dim"))
    windows = query(database, _WINDOWS, key)
    for window in windows.head(SHOWN_WINDOWS).iter_rows(named=True):
        if window["silent"]:
            found: Styled = ("silent, not attributed", "dim")
        elif window["top_title"] is None:
            found = ("unattributed", "dim")
        else:
            found = (
                f"{one_line(window['top_title'])} {window['top_track_share']:.1%} · "
                f"{one_line(window['top_rightsholder'])}, unattributed {window['unattributed']:.1%}"
            )
        start, end = window["start_s"], window["start_s"] + window["seconds"]
        console.say(f"    {start:7.1f} to {end:.1f} s  ", found)
    if windows.height > SHOWN_WINDOWS:
        console.say((f"    and {windows.height - SHOWN_WINDOWS} more: tda sql windows", "dim"))


_SPECS = """
SELECT * FROM v_experiment_spec WHERE experiment = ? AND self_rank_mean IS NOT NULL
ORDER BY self_rank_mean, topk_similarity - bottomk_similarity DESC LIMIT ?
"""
_RECOMMENDED = "SELECT * FROM v_recommended_spec WHERE experiment = ?"
_AGREEMENT = """
SELECT DISTINCT a.cohort, m.label, o.label AS other, a.pearson, a.spearman
FROM v_method_agreement a
JOIN dim_experiment e ON e.method_id = a.method_id AND e.cohort = a.cohort
JOIN dim_experiment f ON f.method_id = a.other_method_id AND f.experiment = e.experiment
    AND f.cohort = e.cohort
JOIN dim_method m ON m.method_id = a.method_id
JOIN dim_method o ON o.method_id = a.other_method_id
WHERE e.experiment = ? AND a.query_id IS NULL AND m.method <> o.method
ORDER BY a.cohort, a.spearman DESC
"""
_VERSIONS = """
SELECT m.label, v.version_kind, v.renditions, v.median_rank, v.share_top_10
FROM v_version_recall_summary v JOIN dim_method m USING (method_id)
WHERE method_id IN (SELECT method_id FROM dim_experiment WHERE experiment = ?)
ORDER BY v.version_kind, v.median_rank
"""
TOP_SPECS = 8


def print_experiment(workspace: Workspace, name: str, console: Terminal) -> None:
    """Print what an experiment found: specs by self-influence, who agrees, who finds versions."""
    database = workspace.database
    specs = query(database, _SPECS, [name, TOP_SPECS])
    if specs.height:
        console.say(("\nrank of a target under its own unlearning", "bold"), " (1 is perfect)")
    for row in specs.iter_rows(named=True):
        console.print(
            f"  {row['self_rank_mean']:7.2f}  first {row['share_rank_1']:4.0%}  {row['label']}"
        )
    for row in query(database, _RECOMMENDED, [name]).iter_rows(named=True):
        console.say(f"  recommended: {row['label']} ", (row["method_id"], "dim"))
    agreement = query(database, _AGREEMENT, [name])
    if agreement.height:
        console.say(("\nmethods that agree most", "bold"), " (Spearman, Pearson)")
    for row in agreement.head(TOP_SPECS).iter_rows(named=True):
        console.say(
            f"  {row['spearman']:5.2f} {row['pearson']:5.2f}  {row['label']} — {row['other']} ",
            (f"({row['cohort']})", "dim"),
        )
    versions = query(database, _VERSIONS, [name])
    if agreement.height and versions.height:
        console.say(("\nother renditions of the same excerpt", "bold"), " (median rank of tracks)")
    for row in versions.iter_rows(named=True) if agreement.height else ():
        console.say(
            f"  {row['median_rank']:6.1f}  top ten {row['share_top_10']:4.0%}  {row['label']} ",
            (f"({row['version_kind']})", "dim"),
        )
    page = workspace.reports / "experiments" / f"{name}.html"
    console.print("\nreport     " + _short(workspace, page))


_LEGEND = """\
payout error   part of the money that goes to the wrong rightsholders when shares are paid, and what
               is unattributed is paid pro rata; unequal: the same for very unequal catalogues
evidence LDS   rank correlation of what the evidence that shares are made of foretells with the loss
               of models trained on random halves of the tracks
confirmed      evidence LDS for the queries and subsets that no setting was chosen on
LDS            rank correlation of what the raw scores foretell
loss left out  rise of a query's loss when its most attributed tracks are left out of training
planted        average precision of finding what was made of a held-out excerpt"""
_BENCH = "SELECT * FROM v_bench ORDER BY cohort, evidence_lds DESC NULLS LAST, lds DESC, method_id"
CONFIRMED = "evidence_lds_confirming"

BENCH_WIDTH = 195
"""A row of the verdict is a line of at least so many characters, whatever the terminal: squeezed
into less it cannot be read."""


def print_bench(workspace: Workspace, console: Terminal) -> None:
    """Print a table per cohort: every method validated against retraining, the highest LDS of
    thresholded scores first."""
    rows = query(workspace.database, _BENCH).to_dicts()
    cohorts = list(dict.fromkeys(row["cohort"] for row in rows))
    for cohort in cohorts:
        if len(cohorts) > 1:
            console.print(f"\ncohort {one_line(cohort)}")
        own = [row for row in rows if row["cohort"] == cohort]
        _print_methods(own, console)
        for ceiling in {row["noise_ceiling"] for row in own} - {None}:
            console.print(
                f"\nAn exact method would have an LDS of {ceiling:.2f}: the rest is chance in "
                "training."
            )
        _print_payout_baselines(workspace, cohort, console)
    console.print(_LEGEND, style="dim")
    console.print("report     " + _short(workspace, workspace.reports / "bench.html"))


_PAYOUT_COLUMNS = {"payout_error": "payout error", "payout_error_unequal": "unequal"}
"""Columns of v_bench that are shown where coalitions were trained on, with their headings."""


def _print_methods(rows: Sequence[Mapping[str, Any]], console: Terminal) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True, overflow="ellipsis", max_width=62)
    paid = [n for n in _PAYOUT_COLUMNS if any(row[n] is not None for row in rows)]
    for heading in (
        *(_PAYOUT_COLUMNS[name] for name in paid),
        "evidence LDS",
        "95 % interval",
        "confirmed",
        "LDS",
        "loss left out",
        "planted",
        "s per query",
        "MB per query",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        known, halved = (row[name] is not None for name in ("evidence_lds", CONFIRMED))
        table.add_row(
            one_line(row["label"]),
            *("–" if row[name] is None else f"{row[name]:.3f}" for name in paid),
            f"{row['evidence_lds']:.3f}" if known else "–",
            f"{row['evidence_lds_low']:+.2f} to {row['evidence_lds_high']:+.2f}" if known else "–",
            f"{row[CONFIRMED]:.3f}" if halved else "–",
            f"{row['lds']:.3f}",
            "–" if row["rise"] is None else f"{row['rise']:+.2%} ± {row['rise_se']:.2%}",
            "–" if row["planted"] is None else f"{row['planted']:.2f}",
            f"{row['seconds_per_query']:.2f}",
            f"{row['bytes_per_query'] / 1e6:.2f}",
        )
    width = console.width
    console.width = max(width, BENCH_WIDTH)
    console.print(table, crop=False)
    console.width = width


def _print_payout_baselines(workspace: Workspace, cohort: str, console: Terminal) -> None:
    """What paying without attribution, and exact shares, are measured to get wrong."""
    for row in query(workspace.database, _BASELINES, [cohort]).iter_rows(named=True):
        console.print(
            f"payout error without attribution, {row['catalogues']}: pro rata "
            f"{row['pro_rata']:.3f}, equally {row['equal']:.3f}, by a fitted power of size "
            f"{row['power']:.3f}"
            + ("" if row["exact_error"] is None else f"; exact shares {row['exact_error']:.3f}")
        )


_BASELINES = """\
SELECT DISTINCT catalogues, pro_rata, equal, power, exact_error
FROM v_payout WHERE cohort = ? AND half = '' ORDER BY catalogues"""


def _short(workspace: Workspace, path: object) -> str:
    text = str(path)
    return text.removeprefix(f"{workspace.root}/")
