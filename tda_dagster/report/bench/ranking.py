"""The table of everything: each method by each figure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tda_dagster.report.bench.contents import READINGS, Cohort, Method, Reading
from tda_dagster.report.bench.layout import Cell, Ranking, Row, Section
from tda_dagster.report.bench.wording import between, cost, fixed, percent


def all_figures(cohort: Cohort) -> Section:
    """The table of everything."""
    explained: tuple[str, ...] = (
        "The best of each column is bold. Beneath an LDS is its interval of 95 %; settings of "
        "methods were chosen on one half of the queries and subsets, and confirmed is what is "
        "left of it on the other. Artists are paid by evidence, so methods stand in its order.",
        "Tracks left out: the query’s loss rises by so much of itself when the tracks that the "
        "method holds most responsible are missing from training (± its standard error over "
        "queries), and the piece that the same prompt and seed then give is so alike to what it "
        "was, in timbre and in melody: lower is a larger change. Planted: the average precision "
        "of finding, among all training tracks, what was made of an excerpt that was itself held "
        "out; 1 is always first.",
    )
    if cohort.payouts:
        explained += (
            "Payout error: the part of the money that goes to the wrong rightsholders, and the "
            "same for catalogues of very unequal sizes.",
        )
    return Section("All figures", explained, ranking=_ranking(cohort.methods))


def _ranking(methods: Sequence[Method]) -> Ranking:
    shown = [c for c in COLUMNS if any(c.value(method) is not None for method in methods)]
    best = [c.best([v for m in methods if (v := c.value(m)) is not None]) for c in shown]
    groups: dict[str, tuple[str, ...]] = {}
    for column in shown:
        groups[column.group] = (*groups.get(column.group, ()), column.title)
    rows = (
        Row(m, tuple(c.cell(m, highest) for c, highest in zip(shown, best, strict=True)))
        for m in methods
    )
    return Ranking(tuple(groups.items()), tuple(rows))


@dataclass(frozen=True)
class _Column:
    """A column of the table under a common heading: what it shows, and which value is best."""

    group: str
    title: str
    value: Callable[[Method], float | None]
    show: Callable[[float], str]
    note: Callable[[Method], str] = lambda method: ""
    best: Callable[[Sequence[float]], float] = max

    def cell(self, method: Method, best: float) -> Cell:
        value = self.value(method)
        if value is None:
            return Cell("–")
        return Cell(self.show(value), self.note(method), value == best)


def _lds_columns(reading: Reading) -> tuple[_Column, _Column]:
    """What a reading is worth in all, and on the confirming half."""

    def all_of(method: Method) -> str:
        score = method.score(reading)
        return between(score.low, score.high)

    def confirming(method: Method) -> str:
        score = method.score(reading)
        low, high = score.confirming_low, score.confirming_high
        return "" if low is None or high is None else between(low, high)

    group, show = READINGS[reading], partial(fixed, digits=3)
    return (
        _Column(group, "all", lambda m: m.score(reading).value, show, all_of),
        _Column(group, "confirmed", lambda m: m.score(reading).confirming, show, confirming),
    )


def _plain_column(
    group: str,
    title: str,
    figure: str,
    best: Callable[[Sequence[float]], float] = max,
) -> _Column:
    return _Column(group, title, lambda method: getattr(method, figure), fixed, best=best)


COLUMNS = (
    _Column(
        "Payout error",
        "rightsholders",
        lambda method: method.payout_error,
        partial(fixed, digits=3),
        best=min,
    ),
    _Column(
        "Payout error",
        "unequal",
        lambda method: method.payout_error_unequal,
        partial(fixed, digits=3),
        best=min,
    ),
    *_lds_columns("evidence_lds"),
    *_lds_columns("lds"),
    _Column(
        "Tracks left out",
        "loss rise, %",
        lambda method: method.rise,
        percent,
        lambda method: "" if method.rise_se is None else f"± {fixed(100 * method.rise_se)}",
    ),
    _plain_column("Tracks left out", "timbre", "similar_timbre", min),
    _plain_column("Tracks left out", "melody", "similar_melody", min),
    _plain_column("Planted", "any", "planted"),
    _plain_column("Planted", "copy", "planted_copy"),
    _plain_column("Planted", "version", "planted_version"),
    _plain_column("Planted", "mix", "planted_mix"),
    _Column("Per query", "s", lambda method: method.seconds_per_query, cost, best=min),
    _Column(
        "Per query",
        "MB",
        lambda method: None if method.bytes_per_query is None else method.bytes_per_query / 1e6,
        cost,
        best=min,
    ),
)
"""The columns of the table; those without any value are left out."""
