"""Sections on the top of a method's list: what leaving tracks out did, and what was planted."""

import math
from functools import partial

import numpy as np

from tda_dagster.report import figures
from tda_dagster.report.bench import charts
from tda_dagster.report.bench.contents import Cohort, named
from tda_dagster.report.bench.layout import Section
from tda_dagster.report.bench.wording import fixed, or_nan, percent, short
from tda_dagster.report.experiment import Chart


def left_out(cohort: Cohort) -> Section | None:
    """What leaving the most attributed tracks out of training did."""
    tried = named(sorted(cohort.known("rise"), key=lambda m: (-(m.rise or 0.0), m.method_id)))
    if not tried:
        return None
    chance = next((m.rise for m in tried if m.method == "random"), None)
    count = cohort.settings.get("removed_tracks")
    # What is drawn is of the largest number, as in v_bench.
    most = count if isinstance(count, int) or not count else max(count)
    which = f"the {most} tracks" if most else "the tracks"
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
                "; ".join(f"{m.name}: {percent(m.rise)} %" for m in tried),
                partial(
                    charts.bars,
                    [short(m.name) for m in tried],
                    [100 * (m.rise or 0.0) for m in tried],
                    [math.nan if m.rise_se is None else 100 * m.rise_se for m in tried],
                    "rise of the query's loss, %",
                    reference=None if chance is None else ("tracks at random", 100 * chance),
                ),
            ),
        ),
        wide=True,
    )


PLANTED = {
    "planted_copy": ("a copy", "copy"),
    "planted_version": ("another rendition", "instruments"),
    "planted_mix": ("a mix", "mix"),
}
"""Figures of v_bench about planted excerpts: what was planted, in words and as `version_kind`."""


def planted(cohort: Cohort) -> Section | None:
    """Which methods find what was planted."""
    asked = named(sorted(cohort.known("planted"), key=lambda m: (-(m.planted or 0.0), m.method_id)))
    kinds = [kind for kind in PLANTED if any(getattr(m, kind) is not None for m in asked)]
    if not kinds:
        return None
    values = np.array([[or_nan(getattr(m, kind)) for kind in kinds] for m in asked])
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
                "; ".join(f"{m.name}: {fixed(m.planted, 2)}" for m in asked),
                partial(figures.matrix, values, [short(m.name, 40) for m in asked], columns),
            ),
        ),
    )
