"""Pictures of music and of measurements, as PNG bytes: one look for the report and the UI."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402  (after the backend is chosen)
from matplotlib.figure import Figure  # noqa: E402

INK, ACCENT, SECOND = "#22303c", "#2a6f97", "#d1495b"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the software's version the same numbers give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def spectrogram(
    audio: np.ndarray, sampling_rate: int, *, title: str = "", width: float = 4.2
) -> bytes:
    """Log-magnitude spectrogram of mono audio [samples]: seconds by kHz, 70 dB below its peak."""
    size, hop = 1024, 256
    padded = np.pad(audio, (0, max(0, size - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)).T
    level = 20 * np.log10(magnitude / max(float(magnitude.max()), 1e-9) + 1e-9)
    figure, axes = plt.subplots(figsize=(width, 1.7), dpi=100, layout="constrained")
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
    axes.tick_params(labelsize=7)
    if title:
        axes.set_title(title, fontsize=8)
    return _png(figure)


def histogram(values: np.ndarray, label: str) -> bytes:
    """How values are distributed."""
    figure, axes = plt.subplots(figsize=(4.6, 2.0), dpi=100, layout="constrained")
    axes.hist(values, bins=60, color=ACCENT)
    axes.set_yscale("log")
    axes.set_xlabel(label, fontsize=8)
    axes.set_ylabel("segments", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def loss_curve(
    steps: Sequence[int], train: Sequence[float], heldout: Sequence[float | None]
) -> bytes:
    """Training and held-out loss by step."""
    figure, axes = plt.subplots(figsize=(4.6, 2.2), dpi=100, layout="constrained")
    axes.plot(steps, train, color=ACCENT, label="train")
    if any(value is not None for value in heldout):
        values = [np.nan if value is None else value for value in heldout]
        axes.plot(steps, values, color=SECOND, label="held out (averaged weights)")
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel("v-objective loss", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def shares(names: Sequence[str], values: Sequence[float]) -> bytes:
    """Shares as horizontal bars, largest on top, the unattributed one in grey."""
    height = 0.28 * len(names) + 0.5
    figure, axes = plt.subplots(figsize=(4.6, height), dpi=100, layout="constrained")
    colours = ["#b8bec4" if name == "unattributed" else ACCENT for name in names]
    places = range(len(names))
    axes.barh(places, [100 * v for v in values], color=colours)
    # Dollar signs would be read as mathematics.
    axes.set_yticks(places, [name.replace("$", r"\$") for name in names], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("share of the attribution, %", fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)
