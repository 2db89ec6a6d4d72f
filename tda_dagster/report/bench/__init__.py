"""The verdict on attribution methods: which of them foretell what retraining shows, at what cost.

`read_bench` fills the contents in from the warehouse, `render_bench` lays them out as one HTML file
that needs no network and no script. A section of the page is a function of a cohort in `SECTIONS`.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tda_dagster.report import figures
from tda_dagster.report.experiment import Chart
from tda_dagster.report.page import environment
from warehouse.build import example_sql, query

OURS = "fim_unlearning"
"""The method whose standing the verdict is about: that of arXiv:2506.18312."""

FAMILIES = ("unlearning", "gradient", "similarity", "peer", "control")
"""In the order of their colours; families of other names come after them."""


@dataclass(frozen=True)
class Method:
    """A method spec's row of `v_bench`, where units are said; None is not known. `name` is the
    shortest that tells it from the cohort's other specs."""

    name: str
    method_id: str
    method: str
    label: str
    family: str
    lds: float
    lds_low: float
    lds_high: float
    lds_choosing: float | None
    lds_confirming: float | None
    lds_confirming_low: float | None
    lds_confirming_high: float | None
    noise_ceiling: float | None
    rise: float | None
    rise_se: float | None
    similar_timbre: float | None
    similar_melody: float | None
    planted: float | None
    planted_copy: float | None
    planted_version: float | None
    planted_mix: float | None
    seconds_per_query: float | None
    bytes_per_query: float | None

    @property
    def interval(self) -> str:
        """The LDS and its interval in words."""
        between = _between(self.lds_low, self.lds_high)
        return f"{_fixed(self.lds, 2)} (95 % interval {between})"

    def overlaps(self, other: "Method") -> bool:
        """Whether the intervals of the two scores have a value in common."""
        return self.lds_low <= other.lds_high and other.lds_low <= self.lds_high


@dataclass(frozen=True)
class Query:
    """A query, and each method's LDS on it, by method id."""

    query_id: str
    prompt: str
    lds: Mapping[str, float]


@dataclass(frozen=True)
class Cohort:
    """Methods held against the retraining of one cohort, the highest LDS first.

    `settings` are those of `counterfactual` in params.yaml and `steps` the length of a training,
    as the ground truth has them; `settings` is empty and `steps` None where the warehouse does not
    say. `tracks` are those that the model was trained on, `planted` counts held-out excerpts by
    what was planted of them, `devices` are those that the scores were computed on.
    """

    name: str
    methods: tuple[Method, ...]
    queries: tuple[Query, ...]
    tracks: int
    planted: Mapping[str, int]
    settings: Mapping[str, Any]
    steps: int | None
    devices: tuple[str, ...]

    def known(self, figure: str) -> list[Method]:
        """The methods that have a figure, best LDS first."""
        return [method for method in self.methods if getattr(method, figure) is not None]


@dataclass(frozen=True)
class BenchReport:
    """Every cohort that models were retrained for; none where ground truth was not asked for."""

    cohorts: tuple[Cohort, ...]


@dataclass(frozen=True)
class Cell:
    """A number as it is shown, what stands beneath it, and whether it is its column's best."""

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A method with its cells in the order of the columns."""

    method: Method
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Ranking:
    """All methods by all figures that are known of any; `groups` are headings over (heading)s."""

    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Section:
    """A part of the page: paragraphs, then charts (`wide`: as wide as the page), a table, SQL."""

    title: str
    paragraphs: tuple[str, ...]
    charts: tuple[Chart, ...] = ()
    wide: bool = False
    ranking: Ranking | None = None
    sql: str = ""


def read_bench(database: Path) -> BenchReport:
    """What the warehouse knows of the bench. Costs and the settings of the ground truth are in its
    `dim_artifact`; where that is empty they are unknown."""

    def rows(sql: str, *parameters: object) -> list[dict[str, Any]]:
        return query(database, sql, list(parameters)).to_dicts()

    (train,) = rows("SELECT count(*) AS tracks FROM dim_track WHERE split = 'train'")
    planted = rows(
        "SELECT r.version_kind, count(DISTINCT r.query_id) AS excerpts FROM v_version_recall r "
        "JOIN dim_segment g ON g.segment_id = r.query_segment_id WHERE g.split = 'heldout' "
        "GROUP BY r.version_kind ORDER BY r.version_kind"
    )
    cohorts = []
    for name in query(database, "SELECT DISTINCT cohort FROM v_bench ORDER BY 1")["cohort"]:
        found = rows("SELECT * FROM v_bench WHERE cohort = ? ORDER BY lds DESC, method_id", name)
        truth = rows(
            "SELECT config FROM dim_artifact WHERE is_live AND asset = 'counterfactual/losses' "
            "AND partition = ?",
            name,
        )
        config = json.loads(truth[0]["config"]) if truth else {}
        devices = rows(
            "SELECT DISTINCT device FROM dim_artifact WHERE is_live "
            "AND asset = 'attribution/scores' AND split_part(partition, '|', 1) = ? ORDER BY 1",
            name,
        )
        cohorts.append(
            Cohort(
                name=name,
                methods=_methods(found),
                queries=_queries(
                    rows(
                        "SELECT q.query_id, q.prompt, e.method_id, e.value FROM fct_evaluation e "
                        "JOIN dim_query q ON q.query_id = e.subject WHERE q.cohort = ? "
                        "AND e.evaluation = 'datamodel' AND e.metric = 'lds' "
                        "ORDER BY q.query_index, e.method_id",
                        name,
                    )
                ),
                tracks=train["tracks"],
                planted={row["version_kind"]: row["excerpts"] for row in planted},
                settings=config.get("counterfactual", {}),
                steps=config.get("model", {}).get("training", {}).get("steps"),
                devices=tuple(row["device"] for row in devices),
            )
        )
    return BenchReport(tuple(cohorts))


def _methods(rows: Sequence[dict[str, Any]]) -> tuple[Method, ...]:
    short = [row["label"].partition(",")[0] for row in rows]
    shared = Counter(short)
    return tuple(
        Method(
            name=row["label"] if shared[name] > 1 else name,
            **{field.name: row[field.name] for field in fields(Method) if field.name != "name"},
        )
        for row, name in zip(rows, short, strict=True)
    )


def _queries(rows: Iterable[dict[str, Any]]) -> tuple[Query, ...]:
    prompts: dict[str, str] = {}
    scores: dict[str, dict[str, float]] = {}
    for row in rows:
        prompts[row["query_id"]] = row["prompt"]
        scores.setdefault(row["query_id"], {})[row["method_id"]] = row["value"]
    return tuple(Query(name, prompts[name], found) for name, found in scores.items())


def render_bench(report: BenchReport) -> str:
    """Lay out a report as HTML; the same report gives the same text. Texts are never interpreted,
    and the page's content security policy forbids everything that is not inside it. Without
    cohorts the page says how ground truth is asked for."""
    found = [
        (cohort, verdict(cohort.methods), [made for make in SECTIONS if (made := make(cohort))])
        for cohort in report.cohorts
    ]
    return environment().get_template("bench.html").render(cohorts=found)


def verdict(methods: Sequence[Method]) -> str:
    """One sentence: which of the methods, the best of them first, foretells retraining best, and
    how FIM unlearning stands to it. It wins when no other interval overlaps with its own, is tied
    with the best when theirs overlap, and loses otherwise. A second sentence says what cannot be
    told from chance.

    Of several settings of FIM unlearning the one is judged that is best on the choosing half.
    """
    best = methods[0]
    ours = max(
        (method for method in methods if method.method == OURS),
        key=lambda method: -math.inf if method.lds_choosing is None else method.lds_choosing,
        default=None,
    )
    of_all = f"of {len(methods)} methods"
    if ours is None:
        said = (
            f"The highest LDS {of_all} is that of {best.name}, {best.interval}; FIM unlearning "
            "was not among them."
        )
    elif ours is best:
        rivals = [method for method in methods[1:] if method.overlaps(best)]
        said = (
            f"{ours.name} does not win outright: its LDS is the highest {of_all}, "
            f"{ours.interval}, but it is tied with {_listed(m.name for m in rivals)}, whose "
            f"interval{'s overlap' if len(rivals) > 1 else ' overlaps'} with its own."
            if rivals
            else f"{ours.name} wins: its LDS is the highest {of_all}, {ours.interval}, and no "
            "other method's interval reaches into its own."
        )
    else:
        above = [method for method in methods if method.lds_low > ours.lds_high]
        others = [method.name for method in above if method is not best]
        said = (
            f"{ours.name} does not win: the highest LDS {of_all} is that of {best.name}, "
            f"{best.interval}, "
        ) + (
            f"and {ours.name}, with {ours.interval}, is tied with it, for their intervals overlap."
            if best not in above
            else f"to which it loses with {ours.interval}"
            + (f", as it does to {_listed(others)}." if others else ".")
        )
    return said + _chance(methods, ours)


def _chance(methods: Sequence[Method], ours: Method | None) -> str:
    if all(method.lds_low <= 0 for method in methods):
        return " None of them can be told from chance, which is an LDS of 0."
    if ours is not None and ours.lds_low <= 0:
        return f" {ours.name} cannot be told from chance, which is an LDS of 0."
    return ""


def _quality_and_cost(cohort: Cohort) -> Section | None:
    """The figure of the verdict."""
    timed = [m for m in cohort.known("seconds_per_query") if (m.seconds_per_query or 0) > 0]
    if not timed:
        return None
    levels = {"chance": 0.0}
    ceiling = _ceiling(cohort)
    if ceiling is not None:
        levels[f"noise ceiling, {_fixed(ceiling, 2)}"] = ceiling
    points = [
        figures.Marked(m.name, m.family, m.seconds_per_query or 0.0, m.lds, m.lds_low, m.lds_high)
        for m in timed
    ]
    where = f", on {_listed(cohort.devices)}" if cohort.devices else ""
    return Section(
        "Quality against cost",
        (
            "Upwards: how well a method foretells retraining, with intervals of 95 %. To the "
            "right: what it costs on top of what is computed once for all queries. The best place "
            "is the upper left corner; at 0 a method knows no more than chance does.",
        ),
        (
            Chart(
                f"LDS against seconds per query{where}",
                "; ".join(
                    f"{m.name}: {_fixed(m.lds, 2)} at {_cost(m.seconds_per_query)} s" for m in timed
                ),
                partial(
                    figures.trade_off,
                    points,
                    _families(timed),
                    "seconds per query",
                    "LDS",
                    levels=levels,
                ),
            ),
        ),
        wide=True,
    )


def _all_figures(cohort: Cohort) -> Section:
    """The table of everything."""
    shown = [c for c in COLUMNS if any(c.value(m) is not None for m in cohort.methods)]
    best = {c.title: c.best(_known(map(c.value, cohort.methods))) for c in shown}
    groups: dict[str, tuple[str, ...]] = {}
    for column in shown:
        groups[column.group] = (*groups.get(column.group, ()), column.title)
    rows = tuple(
        Row(
            method,
            tuple(
                Cell("–")
                if (value := column.value(method)) is None
                else Cell(column.show(value), column.note(method), value == best[column.title])
                for column in shown
            ),
        )
        for method in cohort.methods
    )
    explained = (
        "The best of each column is bold. Beneath an LDS is its interval of 95 %; settings of "
        "methods were chosen on one half of the queries and subsets, and confirmed is what is "
        "left of it on the other.",
        "Tracks left out: the query’s loss rises by so much of itself when the tracks that the "
        "method holds most responsible are missing from training (± its standard error over "
        "queries), and the piece that the same prompt and seed then give is so alike to what it "
        "was, in timbre and in melody: lower is a larger change. Planted: the average precision "
        "of finding, among all training tracks, what was made of an excerpt that was itself held "
        "out; 1 is always first.",
    )
    return Section("All figures", explained, ranking=Ranking(tuple(groups.items()), rows))


def _left_out(cohort: Cohort) -> Section | None:
    """What leaving the most attributed tracks out of training did."""
    tried = sorted(cohort.known("rise"), key=lambda m: (-(m.rise or 0.0), m.method_id))
    if not tried:
        return None
    chance = next((m.rise for m in tried if m.method == "random"), None)
    count = cohort.settings.get("removed_tracks")
    which = f"the {count} tracks" if count else "the tracks"
    return Section(
        "Left out of training",
        (
            f"For each query a model was trained without {which} that a method holds most "
            "responsible for it. If the method is right, the new model does worse on the query "
            "than one that is without as many tracks at random. An LDS asks about all tracks; "
            "this asks about those at the top of the list.",
        ),
        (
            Chart(
                "Rise of the query’s loss, mean over queries ± standard error",
                "; ".join(f"{m.name}: {_percent(m.rise)} %" for m in tried),
                partial(
                    figures.bars,
                    [m.name for m in tried],
                    [100 * (m.rise or 0.0) for m in tried],
                    [math.nan if m.rise_se is None else 100 * m.rise_se for m in tried],
                    "rise of the query's loss, %",
                    reference=None if chance is None else ("tracks at random", 100 * chance),
                ),
            ),
        ),
    )


PLANTED = {
    "planted_copy": ("a copy", "copy"),
    "planted_version": ("another rendition", "instruments"),
    "planted_mix": ("a mix", "mix"),
}
"""Figures of v_bench about planted excerpts: what was planted, in words and as `version_kind`."""


def _planted(cohort: Cohort) -> Section | None:
    """Which methods find what was planted."""
    asked = sorted(cohort.known("planted"), key=lambda m: (-(m.planted or 0.0), m.method_id))
    kinds = [kind for kind in PLANTED if any(getattr(m, kind) is not None for m in asked)]
    if not kinds:
        return None
    values = np.array([[_or_nan(getattr(m, kind)) for kind in kinds] for m in asked])
    columns = [
        f"{words} ({cohort.planted[made]})" if made in cohort.planted else words
        for words, made in (PLANTED[kind] for kind in kinds)
    ]
    return Section(
        "Planted excerpts found",
        (
            "Some excerpts were kept out of training themselves, but a copy of each, another "
            "rendition, or a mix with other music was trained on. Asked about the excerpt, at "
            "which place does a method name that track? The average of 1 / place: always first is "
            "1, always second 0.5. A copy should be easy; who does not find copies finds nothing.",
        ),
        (
            Chart(
                "Average precision, by what was planted (number of excerpts)",
                "; ".join(f"{m.name}: {_fixed(m.planted, 2)}" for m in asked),
                partial(figures.matrix, values, [m.name for m in asked], columns),
            ),
        ),
    )


BEST_SHOWN = 4


def _by_query(cohort: Cohort) -> Section | None:
    """How much the best methods vary between queries."""
    shown = [m for m in cohort.methods if any(m.method_id in q.lds for q in cohort.queries)]
    top = shown[:BEST_SHOWN]
    top += [m for m in shown[BEST_SHOWN:] if m.method == OURS][:1]
    if not top:
        return None
    ordered = sorted(
        cohort.queries, key=lambda q: (-_or_nan(q.lds.get(top[0].method_id)), q.query_id)
    )
    columns = {m.name: [_or_nan(q.lds.get(m.method_id)) for q in ordered] for m in top}
    spread = float(np.nanstd(columns[top[0].name]))
    return Section(
        "Query by query",
        (
            f"The same score for each query alone, of the best methods: over queries that of "
            f"{top[0].name} has a standard deviation of {_fixed(spread, 2)}. A method that is "
            "right on average may be wrong about a piece. Part of the spread is chance: a query’s "
            "LDS is a rank correlation over a few subsets only.",
        ),
        (
            Chart(
                f"LDS of {len(ordered)} queries, the best of {top[0].name} on top",
                "; ".join(
                    f"{name}: {_between(float(np.nanmin(v)), float(np.nanmax(v)))}"
                    for name, v in columns.items()
                ),
                partial(
                    figures.dots, [_short(q.prompt or q.query_id) for q in ordered], columns, "LDS"
                ),
            ),
        ),
        wide=True,
    )


def _how_measured(cohort: Cohort) -> Section:
    """What was trained, what an LDS is, what chance and halves are."""
    ceiling = _ceiling(cohort)
    paragraphs = [
        _trainings(cohort),
        "Linear datamodelling score (LDS, arXiv:2303.14186): a method’s scores of the tracks that "
        "a subset keeps are added up, which foretells how well a model trained on that subset "
        "knows the query. Over subsets this is compared with the loss that the query really has "
        "under each of these models, by Spearman’s rank correlation: 1 is the same order, 0 is "
        "chance, below 0 the order is rather the reverse. The mean over queries is shown. "
        "Intervals are bootstraps over queries and subsets.",
        "Chance in training: the same subset, trained on from another seed, gives other losses, "
        "so even a method that knew what to expect could not foretell them. "
        + (
            "Each subset was trained on once, so how much this is remains unknown."
            if ceiling is None
            else f"From how well trainings of the same subset agree, such a method would have an "
            f"LDS of {_fixed(ceiling, 2)}: the noise ceiling."
        ),
        "Halves: every other query and every other subset are the choosing half, on which settings "
        "of methods may be chosen; the rest confirm, and nothing is chosen on them. They are a "
        "quarter of the figures each, so their intervals are wider.",
        "Cost: the seconds and the bytes of unlearning queries, of losses after that and of "
        "scores, per query. What is computed once for all queries (Fisher information, "
        "embeddings, gradients of the training tracks) is not in it.",
        "The table as SQL (tda sql bench):",
    ]
    return Section("How it was measured", tuple(paragraphs), sql=example_sql("bench").strip())


def _trainings(cohort: Cohort) -> str:
    """What ground truth was trained for, as far as the warehouse knows."""
    asked = f"{len(cohort.queries)} queries of the cohort {cohort.name}"
    settings = cohort.settings
    if not settings:
        return f"{asked}; the model has {cohort.tracks:,} training tracks."
    steps = "" if cohort.steps is None else f" for {cohort.steps:,} steps each"
    repeats = settings["repeats"]
    return (
        f"From {cohort.tracks:,} training tracks {settings['subsets']} random subsets were drawn "
        f"that keep {settings['fraction']:.0%} of them, and on each of these the model was "
        f"trained anew{steps}, "
        + (f"{repeats} times from other seeds. " if repeats > 1 else "once. ")
        + f"Under every one of these models the loss of {asked} was measured with "
        f"{settings['draws']} draws of noise that no method has seen. The most attributed "
        f"{settings['removed_tracks']} tracks were left out for up to "
        f"{settings['removal_queries']} of the queries."
    )


SECTIONS: tuple[Callable[[Cohort], Section | None], ...] = (
    _quality_and_cost,
    _all_figures,
    _left_out,
    _planted,
    _by_query,
    _how_measured,
)
"""The page, from top to bottom; a section that there are no figures for is None."""


def _families(methods: Iterable[Method]) -> list[str]:
    """The families of methods: the usual ones in their order, all of them for the sake of their
    colours' places, then others by name."""
    return [*FAMILIES, *sorted({method.family for method in methods} - set(FAMILIES))]


def _ceiling(cohort: Cohort) -> float | None:
    """The ceiling follows from the losses alone, so every method has the same."""
    return next((method.noise_ceiling for method in cohort.known("noise_ceiling")), None)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _fixed(value: float | None, digits: int) -> str:
    if value is None:
        return "–"
    # Adding zero takes the sign off what is rounded to nothing.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _between(low: float, high: float) -> str:
    return f"{_fixed(low, 2)} to {_fixed(high, 2)}"


def _percent(share: float | None) -> str:
    """In percent, with its sign."""
    text = _fixed(None if share is None else 100 * share, 2)
    return text if text.startswith(("−", "–")) else f"+{text}"


def _cost(value: float | None) -> str:
    """Two digits at least, and no more places than make three."""
    if value is None:
        return "–"
    power = math.floor(math.log10(value)) if value > 0 else 0
    digits = max(0, 2 - power) if power >= 0 else 1 - power
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def _short(prompt: str, letters: int = 64) -> str:
    """The beginning of a prompt, for a figure's margin."""
    return prompt if len(prompt) <= letters else f"{prompt[: letters - 1].rstrip()}…"


def _listed(names: Iterable[str]) -> str:
    """a, b and c."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


@dataclass(frozen=True)
class _Column:
    """A column of the table under a common heading: what it shows, and which value is best."""

    group: str
    title: str
    value: Callable[[Method], float | None]
    show: Callable[[float], str]
    note: Callable[[Method], str] = lambda method: ""
    best: Callable[[Sequence[float]], float] = max


def _lds_column(title: str, figure: str) -> _Column:
    def bounds(method: Method) -> str:
        low, high = (getattr(method, f"{figure}_{end}") for end in ("low", "high"))
        return "" if low is None or high is None else _between(low, high)

    return _Column("LDS", title, lambda m: getattr(m, figure), partial(_fixed, digits=3), bounds)


def _plain_column(
    group: str,
    title: str,
    figure: str,
    best: Callable[[Sequence[float]], float] = max,
) -> _Column:
    return _Column(group, title, lambda m: getattr(m, figure), partial(_fixed, digits=2), best=best)


COLUMNS = (
    _lds_column("all", "lds"),
    _lds_column("confirmed", "lds_confirming"),
    _Column(
        "Tracks left out",
        "loss rise, %",
        lambda method: method.rise,
        lambda value: _percent(value),
        lambda method: "" if method.rise_se is None else f"± {_fixed(100 * method.rise_se, 2)}",
    ),
    _plain_column("Tracks left out", "timbre", "similar_timbre", min),
    _plain_column("Tracks left out", "melody", "similar_melody", min),
    _plain_column("Planted", "any", "planted"),
    _plain_column("Planted", "copy", "planted_copy"),
    _plain_column("Planted", "version", "planted_version"),
    _plain_column("Planted", "mix", "planted_mix"),
    _Column(
        "Per query",
        "s",
        lambda method: method.seconds_per_query,
        lambda value: _cost(value),
        best=min,
    ),
    _Column(
        "Per query",
        "MB",
        lambda method: None if method.bytes_per_query is None else method.bytes_per_query / 1e6,
        lambda value: _cost(value),
        best=min,
    ),
)
"""The columns of the table; those without any value are left out."""
