"""Pictures say what was measured, in the same bytes every time."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from tda_dagster.report import figures


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def tone(frequency: float, rate: int) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(rate) / rate).astype(np.float32)


@pytest.mark.parametrize(
    ("frequency", "rate"), itertools.product((110.0, 440.0, 3520.0), (16_000, 44_100))
)
def test_a_tone_is_a_bright_line_at_its_pitch(frequency: float, rate: int) -> None:
    brightness = pixels(figures.pitch_spectrogram(tone(frequency, rate), rate))[..., :3].sum(axis=2)
    rows = brightness.shape[0]
    height = rows - 0.5 - int(np.argmax(brightness.sum(axis=1)))
    span = np.log(figures.HIGHEST_HZ / figures.LOWEST_HZ)
    assert height == pytest.approx(rows * np.log(frequency / figures.LOWEST_HZ) / span, abs=2.5)


def test_a_slow_recording_leaves_the_top_dark_instead_of_stretching() -> None:
    brightness = pixels(figures.pitch_spectrogram(tone(440.0, 8_000), 8_000))[..., :3]
    assert brightness[:10].max() < 10  # above 4 kHz there is nothing to show


@pytest.mark.parametrize("samples", [1, 500, 5_000])
def test_short_and_silent_sounds_have_a_picture(samples: int) -> None:
    assert pixels(figures.pitch_spectrogram(np.zeros(samples, np.float32), 16_000)).shape == (
        128,
        480,
        4,
    )


def test_pictures_are_the_same_every_time() -> None:
    audio = tone(440.0, 16_000)
    values = np.linspace(-1, 2, 200)
    for draw in (
        lambda: figures.spectrogram(audio, 16_000, title="costs $5 and $6"),
        lambda: figures.pitch_spectrogram(audio, 16_000),
        lambda: figures.histogram(values, "score", marks=[1.5], look=figures.DARK_PAGE),
        lambda: figures.loss_curve([1, 2, 3], [3.0, 2.0, 1.0], [None, 2.5, None]),
        lambda: figures.shares(["a $ b $", "unattributed"], [0.4, 0.6]),
        lambda: figures.matrix(np.eye(2), ["a $ b $", "c"], ["d", "e"], centred=True),
        lambda: figures.scatter({"a": (values, values)}, "x", "y"),
        lambda: figures.intervals(["a"], [1.0], [(0.5, 2.0)], "d", band=(1.0, 2.0)),
    ):
        assert draw() == draw()


def test_marks_are_drawn_in_the_second_colour() -> None:
    values = np.linspace(-1, 2, 200)
    second = np.array([0xD1, 0x49, 0x5B])

    def reds(png: bytes) -> int:
        return int((np.abs(pixels(png)[..., :3].astype(int) - second).max(axis=2) < 3).sum())

    assert reds(figures.histogram(values, "score")) == 0
    assert reds(figures.histogram(values, "score", marks=[1.5])) > 50


def test_a_page_shows_through_its_pictures() -> None:
    assert pixels(figures.histogram(np.arange(9.0), "x", look=figures.LIGHT_PAGE))[0, 0, 3] == 0
    assert pixels(figures.histogram(np.arange(9.0), "x"))[0, 0].tolist() == [255] * 4


def test_unknown_cells_of_a_matrix_stay_empty() -> None:
    def opaque(values: list[list[float]]) -> int:
        png = figures.matrix(np.array(values), ["a"], ["b", "c"], look=figures.LIGHT_PAGE)
        return int((pixels(png)[..., 3] == 255).sum())

    assert opaque([[1.0, np.nan]]) < 0.7 * opaque([[1.0, 2.0]])


def test_cells_of_a_wide_matrix_can_be_read_on_a_phone() -> None:
    png = figures.matrix(np.full((10, 10), -0.25), list("abcdefghij"), list("abcdefghij"),
                         centred=True, look=figures.LIGHT_PAGE)  # fmt: skip
    # Letters of 6.5 pt, on a picture fitted to 350 px, are this high.
    inches = pixels(png).shape[1] / figures.LIGHT_PAGE.dots_per_inch
    assert 6.5 / 72 * 350 / inches > 6.5


def test_points_without_a_place_on_a_logarithmic_axis_are_left_out() -> None:
    known = (np.array([1.0, 3.0]), np.array([2.0, 5.0]))
    more = (np.array([1.0, 3.0, -1.0, 0.0]), np.array([2.0, 5.0, 2.0, 2.0]))
    assert figures.scatter({"a": known}, "x", "y") == figures.scatter({"a": more}, "x", "y")
