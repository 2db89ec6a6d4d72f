"""Pictures of music and of measurements, as PNG bytes: one look for the report and the UI."""

import io
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
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
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
def drawing(width: float, height: float, look: Look) -> Iterator[tuple[Figure, Axes]]:
    """A figure of so many inches with axes in a look's colours; it is closed at the end."""
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


def png(figure: Figure) -> bytes:
    """A figure's picture: the same numbers give the same bytes."""
    buffer = io.BytesIO()
    # The software's version would change them.
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
    with drawing(width, 1.7, look) as (figure, axes):
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
            axes.set_title(literal(title), fontsize=8)
        return png(figure)


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
    with drawing(look.width, 2.0, look) as (figure, axes):
        axes.hist(values, bins=60, color=look.accent)
        for mark in marks:
            axes.axvline(mark, color=look.second, linewidth=0.9)
        axes.set_yscale("log")
        axes.set_xlabel(label, fontsize=8)
        axes.set_ylabel(counted, fontsize=8)
        return png(figure)


def loss_curve(
    steps: Sequence[int],
    train: Sequence[float],
    heldout: Sequence[float | None],
    *,
    look: Look = SCREEN,
) -> bytes:
    """Training and held-out loss by step."""
    with drawing(look.width, 2.2, look) as (figure, axes):
        axes.plot(steps, train, color=look.accent, label="train")
        known = [(s, v) for s, v in zip(steps, heldout, strict=True) if v is not None]
        if known:
            # A held-out loss is measured now and then: dots, joined across the steps between.
            label = "held out (averaged weights)"
            axes.plot(*zip(*known, strict=True), color=look.second, marker=".", label=label)
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel("v-objective loss", fontsize=8)
        axes.legend(fontsize=7, frameon=False)
        return png(figure)


def shares(names: Sequence[str], values: Sequence[float], *, look: Look = SCREEN) -> bytes:
    """Shares as horizontal bars, largest on top, the unattributed one in grey."""
    with drawing(look.width, 0.28 * len(names) + 0.5, look) as (figure, axes):
        colours = [look.muted if name == "unattributed" else look.accent for name in names]
        places = range(len(names))
        axes.barh(places, [100 * v for v in values], color=colours)
        axes.set_yticks(places, [literal(name) for name in names], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("share of the attribution, %", fontsize=7)
        return png(figure)


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
    margin = max(1.0, 0.06 * max(map(len, rows), default=0))
    wide = max(look.width, margin + (0.1 + 0.05 * letters) * len(columns))
    with drawing(wide, 0.9 + 0.27 * len(rows), look) as (figure, axes):
        shown = np.ma.masked_invalid(values)
        axes.imshow(shown, cmap=colours, vmin=low, vmax=high, aspect="auto")
        axes.set_xticks(range(len(columns)), [literal(c) for c in columns], fontsize=7)
        plt.setp(axes.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), [literal(r) for r in rows], fontsize=7)
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
        return png(figure)


def scatter(
    groups: Mapping[str, tuple[np.ndarray, np.ndarray]],
    across: str,
    upward: str,
    *,
    look: Look = SCREEN,
) -> bytes:
    """Points (x, y) of several groups on logarithmic axes; points that are not positive have no
    place on them and are left out."""
    with drawing(look.width, 2.8, look) as (figure, axes):
        colours = (look.accent, look.second, look.ink, look.muted)
        for number, (name, (x, y)) in enumerate(groups.items()):
            seen = (x > 0) & (y > 0)
            axes.scatter(
                x[seen], y[seen], s=14, alpha=0.8, label=literal(name),
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
        return png(figure)


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
    with drawing(look.width + 1.2, 0.22 * len(names) + 0.7, look) as (figure, axes):
        if band is not None:
            axes.axvspan(*band, color=look.muted, alpha=0.35, linewidth=0)
        for place, (value, (low, high)) in enumerate(zip(values, bounds, strict=True)):
            axes.plot([low, high], [place, place], color=look.accent, linewidth=1.4)
            axes.plot([value], [place], marker="o", markersize=3.5, color=look.accent)
        axes.set_yticks(range(len(names)), [literal(name) for name in names], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel(label, fontsize=8)
        return png(figure)


def literal(text: str) -> str:
    """A text for matplotlib, where dollar signs would be read as mathematics."""
    return text.replace("$", r"\$")
