"""The charts of the verdict page, as PNG bytes in the colours of a page."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from tda_dagster.report.figures import GROUPS, MARKS, Look, drawing, literal, png


@dataclass(frozen=True)
class Marked:
    """A value with its interval, at a place across; `group` gives it colour and mark."""

    name: str
    group: str
    across: float
    value: float
    low: float
    high: float


def trade_off(
    points: Sequence[Marked],
    groups: Sequence[str],
    across: str,
    upward: str,
    *,
    levels: Mapping[str, float],
    look: Look,
) -> bytes:
    """Named values with their intervals against what they cost, on a logarithmic axis; `across`
    and `upward` name the axes, `levels` are values to compare with, by their names.

    The groups have their colours by their place in `groups`; those without a point are not
    mentioned. A cost that is not positive has no place and is left out.
    """
    seen = [point for point in points if point.across > 0]
    with drawing(2 * look.width, 4.6, look) as (figure, axes):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=8))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        for name, level in levels.items():
            axes.axhline(level, color=look.muted, linewidth=0.9, linestyle="--", zorder=0)
            axes.annotate(
                literal(name), (1, level), (-2, 2), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", va="bottom", fontsize=6.5,
            )  # fmt: skip
        for group in groups:
            own = [point for point in seen if point.group == group]
            if not own:
                continue
            place = groups.index(group)
            axes.errorbar(
                [p.across for p in own], [p.value for p in own],
                [[p.value - p.low for p in own], [p.high - p.value for p in own]],
                fmt=MARKS[place % len(MARKS)], color=GROUPS[place % len(GROUPS)],
                markersize=5, elinewidth=0.9, alpha=0.9, label=literal(group),
            )  # fmt: skip
        axes.margins(x=0.12, y=0.08)
        axes.set_xlabel(across, fontsize=8)
        axes.set_ylabel(upward, fontsize=8)
        figure.legend(fontsize=7, frameon=False, loc="outside upper center", ncols=len(groups))
        _name(figure, axes, seen)
        return png(figure)


def _name(figure: Figure, axes: Axes, points: Sequence[Marked]) -> None:
    """Write each point's name where it covers the least of what is there, the highest first."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # or names at the edge would move what they were placed by
    dot = figure.dpi / 72
    pixel = axes.transData.transform
    taken = [text.get_window_extent() for text in axes.texts]
    for p in points:
        (x, low), (_, y), (_, high) = (pixel((p.across, v)) for v in (p.low, p.value, p.high))
        taken.append(Bbox.from_extents(x - 4 * dot, y - 4 * dot, x + 4 * dot, y + 4 * dot))
        taken.append(Bbox.from_extents(x - dot, low, x + dot, high))
    for point in sorted(points, key=lambda p: (-p.value, p.across, p.name)):
        best: tuple[float, Annotation] | None = None
        for far, (side, up) in itertools.product((6, 12, 20, 30, 42), _AROUND):
            tried = axes.annotate(
                literal("\n".join(textwrap.wrap(point.name, 28))),
                (point.across, point.value), (far * side, far * up), textcoords="offset points",
                ha=("right", "center", "left")[round(side) + 1],
                va=("top", "center", "bottom")[round(up) + 1],
                fontsize=6.5, linespacing=0.95,
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3,
                            "color": axes.xaxis.label.get_color()} if far > 6 else None,
            )  # fmt: skip
            box = tried.get_window_extent()
            cost = sum(_covered(box, other) for other in taken) + far * dot
            cost += 20 * (box.width * box.height - _covered(box, axes.bbox))
            if best is not None and best[0] <= cost:
                tried.remove()
                continue
            if best is not None:
                best[1].remove()
            best = (cost, tried)
        assert best is not None
        taken.append(best[1].get_window_extent())


_AROUND = ((1, 0), (-1, 0), (1, 0.6), (-1, 0.6), (1, -0.6), (-1, -0.6), (0.4, 1), (0.4, -1))


def _covered(one: Bbox, other: Bbox) -> float:
    """The area that two boxes share, in square pixels."""
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else float(shared.width * shared.height)


def bars(
    names: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float],
    label: str,
    *,
    reference: tuple[str, float] | None = None,
    look: Look,
) -> bytes:
    """Values with their standard errors as horizontal bars, the first on top; `reference` is a
    named value to compare them with. An unknown error is NaN."""
    with drawing(2 * look.width, 0.22 * len(names) + 0.7, look) as (figure, axes):
        places = range(len(names))
        axes.barh(
            places, values, height=0.66, color=look.accent,
            xerr=errors, error_kw={"elinewidth": 0.9, "ecolor": look.ink},
        )  # fmt: skip
        axes.axvline(0, color=look.ink, linewidth=0.8)
        if reference is not None:
            name, value = reference
            axes.axvline(value, color=look.second, linewidth=0.9, linestyle="--", label=name)
            figure.legend(fontsize=7, frameon=False, loc="outside upper right")
        axes.set_yticks(places, [literal(name) for name in names], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel(label, fontsize=8)
        return png(figure)


def dots(
    rows: Sequence[str],
    columns: Mapping[str, Sequence[float]],
    label: str,
    *,
    look: Look,
) -> bytes:
    """What several have in every row, as dots on one line per row, the first on top; NaN is left
    out."""
    with drawing(2 * look.width, 0.17 * len(rows) + 0.9, look) as (figure, axes):
        places = np.arange(len(rows))
        axes.hlines(places, 0, 1, transform=axes.get_yaxis_transform(), color=look.muted,
                    linewidth=0.4, zorder=0)  # fmt: skip
        axes.axvline(0, color=look.ink, linewidth=0.8, zorder=0)
        for number, (name, values) in enumerate(columns.items()):
            axes.scatter(
                values, places, s=16, alpha=0.85, label=literal(name),
                marker=MARKS[number % len(MARKS)], color=GROUPS[number % len(GROUPS)],
            )  # fmt: skip
        axes.set_yticks(places, [literal(row) for row in rows], fontsize=6.5)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(label, fontsize=8)
        figure.legend(fontsize=7, frameon=False, loc="outside upper center", ncols=3)
        return png(figure)


def intervals(
    rows: Sequence[str],
    columns: Mapping[str, Sequence[tuple[float, float, float]]],
    label: str,
    *,
    reference: tuple[str, float] = ("", 0.0),
    look: Look,
) -> bytes:
    """Values with their intervals, (value, low, high), one line per row and one mark per column;
    the first row on top. `reference` is a named value to compare them with; one without a name is
    not in the legend."""
    wrapped = [literal("\n".join(textwrap.wrap(row, 46))) for row in rows]
    with drawing(2 * look.width, 0.34 * len(rows) + 0.9, look) as (figure, axes):
        beside, level = reference
        axes.axvline(level, color=look.ink, linewidth=0.8, zorder=0, label=literal(beside))
        for number, (name, values) in enumerate(columns.items()):
            apart = 0.26 * (number - (len(columns) - 1) / 2)
            middle, low, high = np.array(values).T
            reach = np.maximum([middle - low, high - middle], 0)  # a bootstrap may lie beside it
            axes.errorbar(
                middle, np.arange(len(rows)) + apart, xerr=reach,
                fmt=MARKS[number % len(MARKS)], color=GROUPS[number % len(GROUPS)],
                markersize=4, elinewidth=0.9, alpha=0.9, label=literal(name),
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), wrapped, fontsize=6.5, linespacing=0.95)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(label, fontsize=8)
        figure.legend(fontsize=7, frameon=False, loc="outside upper center", ncols=3)
        return png(figure)


BINS = 5
"""Parts of equal size that `calibration` averages over, at most; a part has `LEAST` points."""

LEAST = 4


def calibration(
    groups: Mapping[str, tuple[np.ndarray, np.ndarray]],
    across: str,
    upward: str,
    *,
    threshold: tuple[str, float] | None = None,
    scale: Literal["linear", "symlog"] = "linear",
    look: Look,
) -> bytes:
    """Points (x, y) of several groups, pale, and for each group the mean of y over parts of equal
    size along x, with its standard error; `threshold` is a named place across. On a scale of
    "symlog" x is linear up to 1 and logarithmic from there."""
    with drawing(1.25 * look.width, 3.0, look) as (figure, axes):
        axes.axhline(0, color=look.ink, linewidth=0.8, zorder=0)
        for number, (name, (x, y)) in enumerate(groups.items()):
            colour, mark = GROUPS[number % len(GROUPS)], MARKS[number % len(MARKS)]
            axes.scatter(x, y, s=10, alpha=0.3, marker=mark, color=colour, linewidths=0)
            parts = np.array_split(np.argsort(x, kind="stable"), max(1, min(BINS, len(x) // LEAST)))
            errors = [y[p].std(ddof=1) / np.sqrt(len(p)) if len(p) > 1 else 0.0 for p in parts]
            axes.errorbar(
                [np.median(x[p]) for p in parts], [y[p].mean() for p in parts], errors,
                fmt=f"{mark}-", color=colour, markersize=5, linewidth=1.1, elinewidth=0.9,
                label=literal(name),
            )  # fmt: skip
        if threshold is not None:
            name, place = threshold
            axes.axvline(place, color=look.ink, linewidth=0.9, linestyle="--", label=literal(name))
        if scale == "symlog":
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(left=min((float(x.min()) for x, _ in groups.values()), default=0.0))
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(across, fontsize=8)
        axes.set_ylabel(upward, fontsize=8)
        figure.legend(fontsize=7, frameon=False, loc="outside upper center", ncols=3)
        return png(figure)
