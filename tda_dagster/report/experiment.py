"""The report of an experiment: what its grid or its comparison of methods found.

`read_experiment` fills the contents in from the warehouse, `render_experiment` lays them out as
one HTML file that needs no network and no script.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tda_dagster.report import figures
from tda_dagster.report.page import environment
from warehouse.build import query

Cell = str | float | None


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; numbers stand right. None is shown as unknown. `marked` are
    the rows to point out, by their index."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A picture, drawn in the colours of the page; `alt` says in words what it shows."""

    caption: str
    alt: str
    draw: Callable[..., bytes]

    def png(self, look: figures.Look) -> bytes:
        return self.draw(look=look)


@dataclass(frozen=True)
class Part:
    """A section of the page: paragraphs, then tables and charts."""

    title: str
    paragraphs: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class ExperimentReport:
    """An experiment: its name, what it asks, and what was found, part by part."""

    name: str
    question: str
    parts: tuple[Part, ...]


def render_experiment(report: ExperimentReport) -> str:
    """Lay out a report as HTML; the same report gives the same text. Texts are never interpreted,
    and the page's content security policy forbids everything that is not inside it."""
    template = environment().get_template("experiment.html")
    return template.render(report=report, light=figures.LIGHT_PAGE, dark=figures.DARK_PAGE)


def read_experiment(database: Path, name: str) -> ExperimentReport:
    """What the warehouse knows of an experiment. Parts that there are no figures for are left
    out."""
    reader = _Reader(database, name)
    specs = reader.rows("SELECT * FROM v_experiment_spec WHERE experiment = ?", name)
    grid = [spec for spec in specs if spec["self_rank_mean"] is not None]
    several = len({spec["method"] for spec in specs}) > 1
    parts = [_run(reader, specs)]
    if grid and not several:
        parts += [*_grid(reader, grid), _paper_grid(reader, grid)]
    if several:
        parts += [*_comparison(reader), _paper_agreement(reader)]
    count = len({spec["method"] for spec in specs})
    question = (
        f"{count} ways to ask which recordings shaped a piece: which of them agree?"
        if several
        else "When a training segment is unlearned, does its loss rise first?"
    )
    return ExperimentReport(name, question, tuple(parts))


class _Reader:
    """Asks the warehouse about one experiment."""

    def __init__(self, database: Path, experiment: str) -> None:
        self._database, self.experiment = database, experiment

    def frame(self, sql: str, *parameters: object) -> pl.DataFrame:
        return query(self._database, sql, list(parameters))

    def rows(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        return self.frame(sql, *parameters).to_dicts()

    def cohorts(self) -> list[str]:
        sql = "SELECT DISTINCT cohort FROM dim_experiment WHERE experiment = ? ORDER BY 1"
        return self.frame(sql, self.experiment)["cohort"].to_list()


def _run(reader: _Reader, specs: Sequence[dict[str, Any]]) -> Part:
    """What was run."""
    cohorts = reader.rows(
        "SELECT q.cohort, any_value(q.kind) AS kind, count(DISTINCT q.query_id) AS queries "
        "FROM dim_query q JOIN dim_experiment x USING (cohort) WHERE x.experiment = ? "
        "GROUP BY q.cohort ORDER BY q.cohort",
        reader.experiment,
    )
    (data,) = reader.rows(
        "SELECT count(*) AS segments, count(DISTINCT track_id) AS tracks, "
        "count(*) FILTER (valid_frames < frames) AS padded FROM dim_segment WHERE split = 'train'"
    )
    kinds = {"segment": "training segments", "generated": "generated pieces", "audio": "recordings"}
    return Part(
        "What was run",
        (
            f"{len(specs)} method specs on "
            + ", ".join(f"{c['queries']} {kinds[c['kind']]} ({c['cohort']})" for c in cohorts)
            + f", each scored against {data['segments']:,} training segments of {data['tracks']:,} "
            f"tracks; {data['padded']:,} segments are shorter than the model's window and padded.",
        ),
    )


AXES = {
    "layer_group": "layer group",
    "mask_unlearning": "M_U",
    "mask_loss": "M_L",
    "learning_rate": "η",
    "steps": "steps",
    "damping": "λ",
}


def _grid(reader: _Reader, specs: list[dict[str, Any]]) -> list[Part]:
    order = sorted(specs, key=_place)
    recommended = reader.rows(
        "SELECT * FROM v_recommended_spec WHERE experiment = ?", reader.experiment
    )
    best = {r["method_id"] for r in recommended}
    table = Table(
        "All specs, the best over all targets first. R: mean rank of a target under its own "
        "unlearning, 1 is perfect. Similarity: mean timbre similarity of the ten most and least "
        "attributed tracks to the target. Rises: of losses, after minus before.",
        (
            *AXES.values(),
            "R mean",
            "R median",
            "at rank 1",
            "top similarity",
            "bottom similarity",
            "query rise",
            "held-out rise",
        ),
        tuple(
            (
                *(_axis(spec[axis]) for axis in AXES),
                _fixed(spec["self_rank_mean"], 2),
                _fixed(spec["self_rank_median"], 1),
                f"{spec['share_rank_1']:.0%}",
                _fixed(spec["topk_similarity"], 3),
                _fixed(spec["bottomk_similarity"], 3),
                _fixed(spec["query_loss_rise"], 4),
                _fixed(spec["heldout_loss_rise"], 5),
            )
            for spec in order
        ),
        marked=tuple(i for i, spec in enumerate(order) if spec["method_id"] in best),
    )
    found = Part(
        "The grid",
        (
            "M_U masks padding while a target is unlearned, M_L masks it in the losses that are "
            "compared. η is the learning rate, λ the damping of the Fisher information relative "
            "to its mean. The recommended spec is marked; it was chosen on half of the targets, by "
            "the rule below, so it need not be the best over all of them.",
        ),
        (table,),
        tuple(_heat_maps(specs)),
    )
    return [found, *_recommendation(recommended), *_ranks(reader), *_fidelity(order)]


HEAT_MAPS = {
    "Mean rank of the target": 2,
    "Gap in similarity, top minus bottom": 3,
    "Held-out loss rise, × 10⁻³": 2,
}
"""What the heat maps show, and to how many digits."""


def _heat(spec: dict[str, Any]) -> tuple[float, float, float]:
    rise = spec["heldout_loss_rise"]
    return (spec["self_rank_mean"], _gap(spec), math.nan if rise is None else 1000 * rise)


def _gap(spec: dict[str, Any]) -> float:
    """How much more similar the most attributed tracks are than the least; NaN if not known."""
    top, bottom = spec["topk_similarity"], spec["bottomk_similarity"]
    return math.nan if top is None or bottom is None else top - bottom


def _place(spec: dict[str, Any]) -> tuple[float, float, float, str]:
    """Sorts specs by the rule of v_recommended_spec; what is not known comes last."""
    gap, rise = _gap(spec), spec["heldout_loss_rise"]
    return (
        round(spec["self_rank_mean"], 9),
        math.inf if math.isnan(gap) else -gap,
        math.inf if rise is None else rise,
        spec["method_id"],
    )


def _heat_maps(specs: list[dict[str, Any]]) -> list[Chart]:
    """Layer group by masks, of the specs that differ from each other in nothing else."""
    common = _most_common(specs, ("learning_rate", "steps", "damping"))
    alike = [s for s in specs if all(s[axis] == value for axis, value in common.items())]
    groups = sorted({s["layer_group"] for s in alike}, key=_by_width)
    masks = sorted({(s["mask_unlearning"], s["mask_loss"]) for s in alike}, reverse=True)
    charts = []
    for number, (title, digits) in enumerate(HEAT_MAPS.items()):
        cells = np.full((len(groups), len(masks)), np.nan)
        for spec in alike:
            place = (spec["mask_unlearning"], spec["mask_loss"])
            cells[groups.index(spec["layer_group"]), masks.index(place)] = _heat(spec)[number]
        columns = [_masks(*mask) for mask in masks]
        rows = [group.replace("_", " ") for group in groups]
        charts.append(
            Chart(title, title, partial(figures.matrix, cells, rows, columns, digits=digits))
        )
    return charts


GROUPS = (
    "cross_attention_kv",
    "cross_attention",
    "self_attention",
    "feed_forward",
    "transformer",
    "everything",
)


def _by_width(layer_group: str) -> tuple[int, str]:
    """The usual layer groups from narrow to wide, then others by name."""
    known = layer_group in GROUPS
    return (GROUPS.index(layer_group) if known else len(GROUPS), layer_group)


def _most_common(specs: list[dict[str, Any]], axes: Sequence[str]) -> dict[str, Any]:
    values = [tuple(spec[axis] for axis in axes) for spec in specs]
    return dict(zip(axes, Counter(values).most_common(1)[0][0], strict=True))


def _recommendation(recommended: list[dict[str, Any]]) -> list[Part]:
    parts = []
    for row in recommended:
        confirmed = (
            "is also the best"
            if row["place_confirming"] == 1
            else f"takes place {row['place_confirming']}"
        )
        parts.append(
            Part(
                "Recommended",
                (
                    f"{row['label']} (method id {row['method_id']}).",
                    "The rule: on the targets of even index, the lowest mean rank; where that is "
                    "equal, the largest gap in similarity between the most and the least "
                    "attributed tracks; then the lowest rise of held-out loss. The targets of odd "
                    f"index confirm: there it {confirmed} of {row['specs']} specs by the same "
                    f"rule, with a mean rank of {row['self_rank_confirming']:.2f} (choosing half: "
                    f"{row['self_rank_choosing']:.2f}) and a gap of "
                    f"{_known(row['similarity_gap_confirming'], 3)} "
                    f"({_known(row['similarity_gap_choosing'], 3)}).",
                ),
            )
        )
    return parts


def _ranks(reader: _Reader) -> list[Part]:
    ranks = reader.frame(
        "SELECT value FROM v_experiment_figure WHERE experiment = ? "
        "AND metric = 'self_influence_rank'",
        reader.experiment,
    )["value"].to_numpy()
    first = float((ranks == 1).mean())
    return [
        Part(
            "Self-influence ranks",
            (
                f"{first:.0%} of all ranks, over specs and targets, are 1; the worst is "
                f"{int(ranks.max())}. A test that nearly everything passes cannot tell methods "
                "apart: it rules settings out, it does not prove the others right.",
            ),
            charts=(
                Chart(
                    "Distribution over all specs and targets",
                    "Histogram of self-influence ranks",
                    partial(
                        figures.histogram,
                        ranks,
                        "rank of the target under its unlearning",
                        counted="targets × specs",
                    ),
                ),
            ),
        )
    ]


def _fidelity(specs: list[dict[str, Any]]) -> list[Part]:
    known = [s for s in specs if s["frechet_distance"] is not None]
    if not known:
        return []
    band = (known[0]["frechet_null_low"], known[0]["frechet_null_high"])
    # Masking the loss changes no weights, and so no music: one row for both.
    distinct = list({s["frechet_distance"]: s for s in known}.values())
    worse = [s for s in distinct if s["frechet_low"] > band[1]]
    verdict = (
        "No spec's interval lies above the band: a change beyond that of other seeds is not shown."
        if not worse
        else f"{len(worse)} of {len(distinct)} change it more than other seeds do: "
        + "; ".join(s["label"] for s in worse)
        + "."
    )
    return [
        Part(
            "What unlearning did to the model's music",
            (
                f"Fréchet distance in timbre between {int(known[0]['pieces'])} pieces by the "
                "unlearned models and the base model's pieces of the same prompts and seeds, with "
                "bootstrap intervals of 95 %. The band is what other seeds alone do to the base "
                f"model's pieces. Specs that differ in M_L alone share a line. {verdict}",
            ),
            charts=(
                Chart(
                    "Fréchet distance before and after unlearning",
                    "Fréchet distances with intervals",
                    partial(
                        figures.intervals,
                        [s["label"].removeprefix("FIM unlearning, ") for s in distinct],
                        [s["frechet_distance"] for s in distinct],
                        [(s["frechet_low"], s["frechet_high"]) for s in distinct],
                        "Fréchet distance",
                        band=band,
                    ),
                ),
            ),
        )
    ]


def _comparison(reader: _Reader) -> list[Part]:
    parts = []
    for cohort in reader.cohorts():
        parts.append(_agreement(reader, cohort))
    parts += [_concentration(reader), *_versions(reader), *_forgetting(reader)]
    return parts


def _methods(reader: _Reader, cohort: str) -> dict[str, str]:
    """Method id → short name, unlearning first."""
    rows = reader.rows(
        "SELECT m.method_id, m.method FROM dim_experiment x JOIN dim_method m USING (method_id) "
        "WHERE x.experiment = ? AND x.cohort = ? "
        "ORDER BY m.family <> 'unlearning', m.family, m.method, m.method_id",
        reader.experiment,
        cohort,
    )
    return {row["method_id"]: row["method"].replace("_", " ") for row in rows}


def _agreement(reader: _Reader, cohort: str) -> Part:
    methods = _methods(reader, cohort)
    ids, names = list(methods), list(methods.values())
    rows = reader.rows(
        "SELECT a.method_id, a.other_method_id, a.pearson, a.spearman, t.jaccard "
        "FROM v_method_agreement a LEFT JOIN v_top_overlap t ON t.cohort = a.cohort "
        "AND t.method_id = a.method_id AND t.other_method_id = a.other_method_id "
        "WHERE a.query_id IS NULL AND a.cohort = ?",
        cohort,
    )

    def cells(figure: str) -> np.ndarray:
        values = np.full((len(ids), len(ids)), np.nan)
        for row in rows:
            pair = (row["method_id"], row["other_method_id"])
            if set(pair) <= methods.keys() and row[figure] is not None:
                one, other = (ids.index(i) for i in pair)
                values[one, other] = values[other, one] = row[figure]
        return values

    shown = (("Pearson", "pearson", True), ("Spearman", "spearman", True))
    return Part(
        f"Who agrees: {cohort}",
        ("Correlation of two methods' scores over all training segments, averaged over queries.",),
        charts=(
            *(
                Chart(title, f"{title} correlation", partial(
                    figures.matrix, cells(figure), names, names, centred=centred
                ))
                for title, figure, centred in shown
            ),
            Chart(
                "Overlap of the ten most influential tracks (Jaccard)",
                "Top-ten overlap",
                partial(figures.matrix, cells("jaccard"), names, names),
            ),
        ),
    )  # fmt: skip


def _concentration(reader: _Reader) -> Part:
    rows = reader.rows(
        "SELECT x.cohort, m.method, c.gini, c.top_1pct_share, o.jaccard, o.distinct_tracks "
        "FROM dim_experiment x JOIN dim_method m USING (method_id) "
        "JOIN v_concentration c USING (cohort, method_id) "
        "LEFT JOIN v_query_overlap o USING (cohort, method_id) "
        "WHERE x.experiment = ? ORDER BY x.cohort, c.gini DESC",
        reader.experiment,
    )
    return Part(
        "How concentrated, and always the same tracks?",
        (
            "Gini coefficient and share of the top 1 % of segments, both of what scores are above "
            "their median; and how alike the ten most influential tracks of two queries are. A "
            "method that names the same tracks whatever it is asked says little of the query.",
        ),
        (
            Table(
                "Averages over queries",
                (
                    "cohort",
                    "method",
                    "Gini",
                    "top 1 %",
                    "overlap between queries",
                    "distinct tracks",
                ),
                tuple(
                    (
                        row["cohort"],
                        row["method"].replace("_", " "),
                        _fixed(row["gini"], 3),
                        f"{row['top_1pct_share']:.1%}",
                        _fixed(row["jaccard"], 3),
                        row["distinct_tracks"],
                    )
                    for row in rows
                ),
            ),
        ),
    )


def _versions(reader: _Reader) -> list[Part]:
    rows = reader.rows(
        "SELECT v.*, m.method FROM v_version_recall_summary v "
        "JOIN dim_experiment x USING (cohort, method_id) JOIN dim_method m USING (method_id) "
        "WHERE x.experiment = ? ORDER BY v.cohort, v.version_kind, v.mean_reciprocal_rank DESC",
        reader.experiment,
    )
    if not rows:
        return []
    return [
        Part(
            "Which methods find versions?",
            (
                "Where the other renditions of a target's excerpt rank among all other training "
                "tracks. Finding versions is what melody similarity is made for; for an "
                "attribution method it is a hint, not a verdict: a rendition in other timbres need "
                "not have shaped how the model plays this one.",
            ),
            (
                Table(
                    "Rank of other renditions",
                    (
                        "cohort",
                        "version",
                        "method",
                        "renditions",
                        "median rank",
                        "in the top ten",
                        "mean reciprocal rank",
                    ),
                    tuple(
                        (
                            row["cohort"],
                            row["version_kind"],
                            row["method"].replace("_", " "),
                            row["renditions"],
                            _fixed(row["median_rank"], 1),
                            f"{row['share_top_10']:.0%}",
                            _fixed(row["mean_reciprocal_rank"], 3),
                        )
                        for row in rows
                    ),
                ),
            ),
        )
    ]


def _forgetting(reader: _Reader) -> list[Part]:
    rises = reader.frame(
        "SELECT m.method, f.query_id, "
        "any_value(f.value) FILTER (f.metric = 'query_loss_rise') AS query_rise, "
        "any_value(f.value) FILTER (f.metric = 'heldout_loss_rise') AS heldout_rise "
        "FROM v_experiment_figure f JOIN dim_method m USING (method_id) WHERE f.experiment = ? "
        "GROUP BY m.method, f.query_id HAVING query_rise IS NOT NULL AND heldout_rise IS NOT NULL "
        "ORDER BY m.method, f.query_id",
        reader.experiment,
    )
    if rises.is_empty():
        return []
    methods = rises["method"].unique(maintain_order=True).to_list()
    groups = {
        method.replace("_", " "): (
            rises.filter(method=method)["query_rise"].to_numpy(),
            rises.filter(method=method)["heldout_rise"].to_numpy(),
        )
        for method in methods
    }
    return [
        Part(
            "What else is forgotten",
            (
                "How much the loss on held-out music rises when a query is unlearned, against how "
                f"much the query's own loss rises. {_damage(rises)}",
            ),
            (
                Table(
                    "Mean rise of losses",
                    ("method", "queries", "query", "held-out music", "held-out per query"),
                    tuple(
                        (
                            name,
                            len(x),
                            _fixed(float(x.mean()), 4),
                            _fixed(float(y.mean()), 5),
                            _fixed(float(y.mean() / x.mean()), 4),
                        )
                        for name, (x, y) in groups.items()
                    ),
                ),
            ),
            (
                Chart(
                    "Each query: its own loss rise and that of held-out music",
                    "Held-out loss rise against query loss rise",
                    partial(
                        figures.scatter, groups, "rise of the query's loss", "rise of held-out loss"
                    ),
                ),
            ),
        )
    ]


def _damage(rises: pl.DataFrame) -> str:
    """What the negative control shows, in a sentence made from the figures."""
    both = rises.filter(method="fim_unlearning").join(
        rises.filter(method="gradient_ascent"), on="query_id", suffix="_plain"
    )
    if both.is_empty():
        return ""
    with_fisher = float(both["heldout_rise"].to_numpy().mean())
    without = float(both["heldout_rise_plain"].to_numpy().mean())
    more = int((both["heldout_rise_plain"] > both["heldout_rise"]).sum())
    raised = [float(both[name].to_numpy().mean()) for name in ("query_rise", "query_rise_plain")]
    damage = (
        f"{without / with_fisher:.1f} times the damage"
        if min(without, with_fisher) > 0
        else "more damage"
        if without > with_fisher
        else "no more damage"
    )
    return (
        "Gradient ascent without Fisher information, stopped where it has raised the query's loss "
        f"as much as FIM unlearning (measured: {raised[1]:.4f} and {raised[0]:.4f}), raises "
        f"held-out loss by {_fixed(without, 5)} on average, FIM unlearning by "
        f"{_fixed(with_fisher, 5)}: {damage}. It damages more for {more} of {both.height} queries."
    )


def _paper() -> dict[str, Any]:
    text = (files("tda_dagster.report") / "paper.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


_DIFFERS = (
    "What differs: the paper's model is a latent diffusion transformer trained on {tracks:,} "
    "tracks ({hours:,} hours) of stereo music at 44.1 kHz; ours is the model of this study. The "
    "paper's figures are quoted from {source}, not from its own tables, whose numbers are not "
    "known here."
)


def _paper_grid(reader: _Reader, specs: list[dict[str, Any]]) -> Part:
    """The paper's self-influence figures beside ours, for the masks and layer groups it reports."""
    paper = _paper()
    common = _most_common(specs, ("learning_rate", "steps", "damping"))
    ours = {
        (s["layer_group"], s["mask_unlearning"], s["mask_loss"]): s
        for s in specs
        if all(s[axis] == value for axis, value in common.items())
    }
    has_clap = any(s["topk_clap"] is not None for s in specs)
    similarity = "clap" if has_clap else "similarity"
    rows: list[tuple[Cell, ...]] = []
    for theirs in paper["self_influence"]:
        key = (theirs["layer_group"], theirs["mask_unlearning"], theirs["mask_loss"])
        spec = ours.get(key, {})
        rows.append(
            (
                theirs["layer_group"].replace("_", " "),
                _masks(*key[1:]),
                _fixed(theirs["rank"], 1),
                _fixed(spec.get("self_rank_mean"), 1),
                _fixed(theirs["top"], 2),
                _fixed(spec.get(f"topk_{similarity}"), 2),
                _fixed(theirs["bottom"], 2),
                _fixed(spec.get(f"bottomk_{similarity}"), 2),
                _fixed(theirs["frechet"], 1),
                _fixed(spec.get("frechet_distance"), 2),
            )
        )
    settings = ", ".join(f"{AXES[axis]} {_axis(value)}" for axis, value in common.items())
    return Part(
        "Beside the paper",
        (
            f"Self-influence of {paper['targets']} targets in arXiv:2506.18312, and of "
            f"{max(s['targets'] for s in specs)} here (with {settings}).",
            _DIFFERS.format(**paper),
            _hardness(reader, paper["tracks"], rows),
            "Similarity here is by CLAP, as in the paper."
            if has_clap
            else "Similarity here is by timbre statistics where the paper has CLAP: compare the "
            "order of the rows, not the figures.",
            "What cannot be compared: Fréchet distances, which are in OpenL3 embeddings there and "
            "in timbre statistics, from the base model's own pieces, here; and step sizes "
            f"(η {paper['learning_rate']:g} and {paper['steps']} step are the paper's best), "
            "which depend on the model. The paper's dampings are not known here.",
        ),
        (
            Table(
                "R: mean rank of the target. Top, bottom: similarity of the most and the least "
                "attributed tracks to it. FD: Fréchet distance of generations",
                (
                    "layer group",
                    "masks",
                    "R, paper",
                    "R, here",
                    "top, paper",
                    "top, here",
                    "bottom, paper",
                    "bottom, here",
                    "FD, paper",
                    "FD, here",
                ),
                tuple(rows),
            ),
        ),
    )


def _hardness(reader: _Reader, tracks: int, rows: list[tuple[Cell, ...]]) -> str:
    """What the ranks are among, so that nobody reads equal ranks as equal feats."""
    (data,) = reader.rows("SELECT count(*) AS segments FROM dim_segment WHERE split = 'train'")
    segments = data["segments"]
    text = (
        f"A rank is among {tracks:,} tracks there and among {segments:,} segments here: guessing "
        f"gives about {(tracks + 1) / 2:,.0f} and {(segments + 1) / 2:,.0f}, so equal ranks are "
        "not equally hard to reach."
    )
    both = [(str(row[0]), str(row[2]), str(row[3])) for row in rows if row[3] is not None]
    if not both:
        return text
    name, theirs, ours = both[0]
    return (
        f"{text} For {name}, rank {theirs} is within the first {float(theirs) / tracks:.2%} of "
        f"the paper's tracks, {ours} within the first {float(ours) / segments:.2%} of our segments."
    )


def _paper_agreement(reader: _Reader) -> Part:
    """The paper's test-to-train correlations beside ours, on generated pieces."""
    paper = _paper()
    found = {
        (row["cohort"], row["other"]): row
        for row in reader.rows(
            "SELECT a.cohort, avg(a.pearson) AS pearson, avg(a.spearman) AS spearman, "
            "CASE WHEN m.method = 'fim_unlearning' THEN o.method ELSE m.method END AS other "
            "FROM v_method_agreement a "
            "JOIN dim_method m ON m.method_id = a.method_id "
            "JOIN dim_method o ON o.method_id = a.other_method_id "
            "JOIN dim_experiment x ON x.method_id = a.method_id AND x.cohort = a.cohort "
            "JOIN dim_experiment y ON y.method_id = a.other_method_id AND y.cohort = a.cohort "
            "AND y.experiment = x.experiment "
            "WHERE a.query_id IS NULL AND 'fim_unlearning' IN (m.method, o.method) "
            "AND x.experiment = ? GROUP BY ALL",
            reader.experiment,
        )
    }
    cohorts = [
        row["cohort"]
        for row in reader.rows(
            "SELECT DISTINCT q.cohort FROM dim_query q JOIN dim_experiment x USING (cohort) "
            "WHERE x.experiment = ? AND q.kind = 'generated' ORDER BY 1",
            reader.experiment,
        )
    ]
    rows: list[tuple[Cell, ...]] = []
    # Without generated pieces the paper's figures stand alone.
    for theirs in paper["agreement"]:
        for cohort in cohorts or [""]:
            same = theirs.get("same", theirs["method"])
            method = same if (cohort, same) in found else theirs["method"]
            ours = found.get((cohort, method), {})
            rows.append(
                (
                    theirs["theirs"],
                    method,
                    _fixed(theirs["correlation"], 2),
                    _fixed(ours.get("pearson"), 2),
                    None,
                    _fixed(ours.get("spearman"), 2),
                    *([cohort] if len(cohorts) > 1 else []),
                )
            )
    stand_ins = "melody similarity stands in for it" + (
        "" if any(other == "clap" for _, other in found) else ", as timbre does for CLAP"
    )
    return Part(
        "Beside the paper",
        (
            "Correlation of each method's scores with those of unlearning, on generated pieces, in "
            "arXiv:2506.18312 and here.",
            _DIFFERS.format(**paper),
            "What cannot be compared: CLEWS, a learnt embedding of versions, is not run here; "
            f"{stand_ins}. The paper's Spearman correlations, concentration and overlap are not "
            "known here.",
        ),
        (
            Table(
                "Correlation with unlearning",
                (
                    "paper's method",
                    "ours",
                    "Pearson, paper",
                    "Pearson, here",
                    "Spearman, paper",
                    "Spearman, here",
                    *(["cohort"] if len(cohorts) > 1 else []),
                ),
                tuple(rows),
            ),
        ),
    )


def _masks(unlearning: bool, loss: bool) -> str:
    names = {(True, True): "M_U, M_L", (True, False): "M_U", (False, True): "M_L"}
    return names.get((unlearning, loss), "none")


def _axis(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value).replace("_", " ")


def _known(value: float | None, digits: int) -> str:
    return _fixed(value, digits) or "not known here"


def _fixed(value: float | None, digits: int) -> str | None:
    if value is None:
        return None
    # Adding zero takes the sign off what is rounded to nothing.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
