"""Pictures of music and of measurements, as PNG bytes: one look for the report and the UI."""

import io
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox
from PIL import Image


@dataclass(frozen=True)
class Look:
    """Colours of a picture, as matplotlib names them, its width in inches and dots per inch.

    A `paper` of "none" is transparent: the page behind shows through. Letters keep their size, so
    a narrower picture has the larger ones once it is fitted to a column.
    """

    paper: str
    ink: str
    accent: str
    second: str
    muted: str
    width: float
    dots_per_inch: int


SCREEN = Look("white", "#22303c", "#2a6f97", "#d1495b", "#b8bec4", 4.6, 100)
LIGHT_PAGE = Look("none", "#4d5a66", "#2a6f97", "#d1495b", "#b8bec4", 3.6, 200)
DARK_PAGE = Look("none", "#a7b3bd", "#6aaed6", "#ee8a97", "#59646e", 3.6, 200)

MARKS = ("o", "s", "^", "D", "v", "P")
GROUPS = ("#d1495b", "#3a86b7", "#4c9a6a", "#c08a2b", "#8b929a", "#8d6bb8")
"""Marks and colours of groups, in order. The colours can be told apart on light and on dark paper;
the marks do without colours."""

LOWEST_HZ, HIGHEST_HZ, RANGE_DB = 60.0, 8000.0, 60.0
"""What `pitch_spectrogram` shows: frequencies, and decibels below the loudest point."""


@contextmanager
def _drawing(width: float, height: float, look: Look) -> Iterator[tuple[Figure, Axes]]:
    settings = {
        "figure.facecolor": look.paper,
        "axes.facecolor": look.paper,
        "savefig.facecolor": look.paper,
        "text.color": look.ink,
        "axes.edgecolor": look.ink,
        "axes.labelcolor": look.ink,
        "xtick.color": look.ink,
        "ytick.color": look.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(settings):
        figure, axes = plt.subplots(
            figsize=(width, height), dpi=look.dots_per_inch, layout="constrained"
        )
        axes.tick_params(labelsize=7)
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the software's version the same numbers give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def spectrogram(
    audio: np.ndarray,
    sampling_rate: int,
    *,
    title: str = "",
    width: float = 4.2,
    look: Look = SCREEN,
) -> bytes:
    """Log-magnitude spectrogram of mono audio [samples]: seconds by kHz, 70 dB below its peak."""
    size, hop = 1024, 256
    padded = np.pad(audio, (0, max(0, size - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)).T
    level = 20 * np.log10(magnitude / max(float(magnitude.max()), 1e-9) + 1e-9)
    with _drawing(width, 1.7, look) as (figure, axes):
        axes.imshow(
            level,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=-70,
            vmax=0,
            extent=(0, len(audio) / sampling_rate, 0, sampling_rate / 2000),
            interpolation="nearest",
        )
        axes.set_xlabel("s", fontsize=7)
        axes.set_ylabel("kHz", fontsize=7)
        if title:
            axes.set_title(_literal(title), fontsize=8)
        return _png(figure)


def pitch_spectrogram(audio: np.ndarray, sampling_rate: int) -> bytes:
    """Mono audio [samples] as a bare picture for reading melodies: no axes, seconds by pitch.

    Rows are spaced like notes, equally in log frequency from `LOWEST_HZ` to `HIGHEST_HZ` whatever
    the sampling rate, so that pictures can be compared; brightness spans `RANGE_DB` below the
    loudest point. 480 by 128 pixels in 64 colours: a third of the bytes of a full-colour picture.
    """
    columns, rows, shades = 480, 128, 64
    size = 2 ** round(np.log2(0.09 * sampling_rate))  # long enough to part low semitones
    padded = np.pad(audio, (0, max(0, size - len(audio))))
    starts = np.linspace(0, len(padded) - size, columns).round().astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[starts]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    banded = _note_bands(rows, size, sampling_rate) @ power.T
    level = 10 * np.log10(banded / max(float(banded.max()), 1e-12) + 1e-12)
    shade = np.clip((level / RANGE_DB + 1) * (shades - 1), 0, shades - 1).round()
    picture = Image.fromarray(shade[::-1].astype(np.uint8), "P")
    colours = colormaps["magma"](np.linspace(0, 1, shades))[:, :3]
    picture.putpalette((255 * colours).round().astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _note_bands(rows: int, size: int, sampling_rate: int) -> np.ndarray:
    """Triangular weights [rows, size // 2 + 1], at least one FFT bin wide."""
    bins = np.fft.rfftfreq(size, 1 / sampling_rate)
    edges = np.geomspace(LOWEST_HZ, HIGHEST_HZ, rows + 1)
    centres = np.sqrt(edges[1:] * edges[:-1])
    reach = np.maximum(np.diff(edges), bins[1])
    weights = np.clip(1 - np.abs(bins - centres[:, None]) / reach[:, None], 0, None)
    banded: np.ndarray = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    return banded


def histogram(
    values: np.ndarray,
    label: str,
    *,
    counted: str = "segments",
    marks: Sequence[float] = (),
    look: Look = SCREEN,
) -> bytes:
    """How values of what is `counted` are distributed; `marks` are values to point out with a
    vertical line."""
    with _drawing(look.width, 2.0, look) as (figure, axes):
        axes.hist(values, bins=60, color=look.accent)
        for mark in marks:
            axes.axvline(mark, color=look.second, linewidth=0.9)
        axes.set_yscale("log")
        axes.set_xlabel(label, fontsize=8)
        axes.set_ylabel(counted, fontsize=8)
        return _png(figure)


def loss_curve(
    steps: Sequence[int],
    train: Sequence[float],
    heldout: Sequence[float | None],
    *,
    look: Look = SCREEN,
) -> bytes:
    """Training and held-out loss by step."""
    with _drawing(look.width, 2.2, look) as (figure, axes):
        axes.plot(steps, train, color=look.accent, label="train")
        known = [(s, v) for s, v in zip(steps, heldout, strict=True) if v is not None]
        if known:
            # A held-out loss is measured now and then: dots, joined across the steps between.
            label = "held out (averaged weights)"
            axes.plot(*zip(*known, strict=True), color=look.second, marker=".", label=label)
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel("v-objective loss", fontsize=8)
        axes.legend(fontsize=7, frameon=False)
        return _png(figure)


def shares(names: Sequence[str], values: Sequence[float], *, look: Look = SCREEN) -> bytes:
    """Shares as horizontal bars, largest on top, the unattributed one in grey."""
    with _drawing(look.width, 0.28 * len(names) + 0.5, look) as (figure, axes):
        colours = [look.muted if name == "unattributed" else look.accent for name in names]
        places = range(len(names))
        axes.barh(places, [100 * v for v in values], color=colours)
        axes.set_yticks(places, [_literal(name) for name in names], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("share of the attribution, %", fontsize=7)
        return _png(figure)


def matrix(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    digits: int = 2,
    centred: bool = False,
    look: Look = SCREEN,
) -> bytes:
    """A matrix [rows, columns] as coloured cells with their numbers; NaN cells stay empty.

    `centred` colours values by sign, for correlations; otherwise from lowest to highest.
    """
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if centred:
        low, high = -1.0, 1.0
    colours = colormaps["RdBu_r" if centred else "YlGnBu"]
    # Cells are no wider than their numbers need, or a phone would show them too small to read.
    letters = max((len(f"{value:.{digits}f}") for value in known), default=1)
    wide = max(look.width, 1.0 + (0.1 + 0.05 * letters) * len(columns))
    with _drawing(wide, 0.9 + 0.27 * len(rows), look) as (figure, axes):
        shown = np.ma.masked_invalid(values)
        axes.imshow(shown, cmap=colours, vmin=low, vmax=high, aspect="auto")
        axes.set_xticks(range(len(columns)), [_literal(c) for c in columns], fontsize=7)
        plt.setp(axes.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), [_literal(r) for r in rows], fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for (row, column), value in np.ndenumerate(values):
            if not np.isfinite(value):
                continue
            red, green, blue, _ = colours((value - low) / (high - low) if high > low else 0.5)
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
            ink = "white" if dark else "#22303c"
            axes.text(
                column, row, f"{value:.{digits}f}".replace("-", "−"), ha="center", va="center",
                fontsize=6.5, color=ink,
            )  # fmt: skip
        return _png(figure)


def scatter(
    groups: Mapping[str, tuple[np.ndarray, np.ndarray]],
    across: str,
    upward: str,
    *,
    look: Look = SCREEN,
) -> bytes:
    """Points (x, y) of several groups on logarithmic axes; points that are not positive have no
    place on them and are left out."""
    with _drawing(look.width, 2.8, look) as (figure, axes):
        colours = (look.accent, look.second, look.ink, look.muted)
        for number, (name, (x, y)) in enumerate(groups.items()):
            seen = (x > 0) & (y > 0)
            axes.scatter(
                x[seen], y[seen], s=14, alpha=0.8, label=_literal(name),
                marker=MARKS[number % len(MARKS)], color=colours[number % len(colours)],
            )  # fmt: skip
        for scaled, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
            scaled("log")
            # Labels between powers of ten would run into each other.
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FormatStrFormatter("%g"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(across, fontsize=8)
        axes.set_ylabel(upward, fontsize=8)
        figure.legend(fontsize=7, frameon=False, loc="outside upper center", ncols=3)
        return _png(figure)


def intervals(
    names: Sequence[str],
    values: Sequence[float],
    bounds: Sequence[tuple[float, float]],
    label: str,
    *,
    band: tuple[float, float] | None = None,
    look: Look = SCREEN,
) -> bytes:
    """Values with their intervals, one under the other; `band` is a range to compare them with."""
    with _drawing(look.width + 1.2, 0.22 * len(names) + 0.7, look) as (figure, axes):
        if band is not None:
            axes.axvspan(*band, color=look.muted, alpha=0.35, linewidth=0)
        for place, (value, (low, high)) in enumerate(zip(values, bounds, strict=True)):
            axes.plot([low, high], [place, place], color=look.accent, linewidth=1.4)
            axes.plot([value], [place], marker="o", markersize=3.5, color=look.accent)
        axes.set_yticks(range(len(names)), [_literal(name) for name in names], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel(label, fontsize=8)
        return _png(figure)


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
    look: Look = SCREEN,
) -> bytes:
    """Named values with their intervals against what they cost, on a logarithmic axis; `across`
    and `upward` name the axes, `levels` are values to compare with, by their names.

    The groups have their colours by their place in `groups`; those without a point are not
    mentioned. A cost that is not positive has no place and is left out.
    """
    seen = [point for point in points if point.across > 0]
    with _drawing(2 * look.width, 4.6, look) as (figure, axes):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=8))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        for name, level in levels.items():
            axes.axhline(level, color=look.muted, linewidth=0.9, linestyle="--", zorder=0)
            axes.annotate(
                _literal(name), (1, level), (-2, 2), xycoords=("axes fraction", "data"),
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
                markersize=5, elinewidth=0.9, alpha=0.9, label=_literal(group),
            )  # fmt: skip
        axes.margins(x=0.12, y=0.08)
        axes.set_xlabel(across, fontsize=8)
        axes.set_ylabel(upward, fontsize=8)
        figure.legend(fontsize=7, frameon=False, loc="outside upper center", ncols=len(groups))
        _name(figure, axes, seen)
        return _png(figure)


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
                _literal("\n".join(textwrap.wrap(point.name, 28))),
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
    look: Look = SCREEN,
) -> bytes:
    """Values with their standard errors as horizontal bars, the first on top; `reference` is a
    named value to compare them with. An unknown error is NaN."""
    with _drawing(look.width + 1.2, 0.22 * len(names) + 0.7, look) as (figure, axes):
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
        axes.set_yticks(places, [_literal(name) for name in names], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel(label, fontsize=8)
        return _png(figure)


def dots(
    rows: Sequence[str],
    columns: Mapping[str, Sequence[float]],
    label: str,
    *,
    look: Look = SCREEN,
) -> bytes:
    """What several have in every row, as dots on one line per row, the first on top; NaN is left
    out."""
    with _drawing(2 * look.width, 0.17 * len(rows) + 0.9, look) as (figure, axes):
        places = np.arange(len(rows))
        axes.hlines(places, 0, 1, transform=axes.get_yaxis_transform(), color=look.muted,
                    linewidth=0.4, zorder=0)  # fmt: skip
        axes.axvline(0, color=look.ink, linewidth=0.8, zorder=0)
        for number, (name, values) in enumerate(columns.items()):
            axes.scatter(
                values, places, s=16, alpha=0.85, label=_literal(name),
                marker=MARKS[number % len(MARKS)], color=GROUPS[number % len(GROUPS)],
            )  # fmt: skip
        axes.set_yticks(places, [_literal(row) for row in rows], fontsize=6.5)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(label, fontsize=8)
        figure.legend(fontsize=7, frameon=False, loc="outside upper center", ncols=3)
        return _png(figure)


def _literal(text: str) -> str:
    """Dollar signs would be read as mathematics."""
    return text.replace("$", r"\$")
