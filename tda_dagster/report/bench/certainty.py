"""The section on how sure scores are: whether prominence and reliability foretell being right, how
far ranks could move, and whether intervals hold what they promise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from scipy import stats

from tda_dagster.report.bench import charts
from tda_dagster.report.bench.contents import Cohort, Reliability, Stability
from tda_dagster.report.bench.layout import Section
from tda_dagster.report.bench.wording import fixed
from tda_dagster.report.experiment import Cell, Chart, Table

HALVES = ("choosing", "confirming")

_Known: TypeAlias = tuple[float, Reliability]
"""An answer, and a sign of it."""


@dataclass(frozen=True)
class _Sign:
    """What can be known of an answer without retraining, and may foretell whether it is right;
    below a threshold, a setting, answers are not attributed."""

    name: str
    meaning: str
    setting: str
    threshold: float
    scale: Literal["linear", "symlog"]
    of: Callable[[Reliability], float | None]

    def known(self, found: Sequence[Reliability]) -> list[_Known]:
        """The answers of which it is known, with what it is."""
        return [(value, each) for each in found if (value := self.of(each)) is not None]


def _signs(cohort: Cohort) -> tuple[_Sign, ...]:
    return (
        _Sign(
            "prominence",
            "how far the best segment stands out of the bulk of segments, as a multiple of how far "
            "the best of as many draws of noise would",
            "shares.min_prominence",
            cohort.min_prominence or 0.0,
            "symlog",
            lambda found: found.prominence,
        ),
        _Sign(
            "reliability",
            "the part of what tells its scores apart that is more than chance in the draws",
            "shares.min_reliability",
            cohort.min_reliability or 0.0,
            "linear",
            lambda found: found.reliability,
        ),
    )


def how_sure(cohort: Cohort) -> Section | None:
    """What is known about the uncertainty of scores; None where nothing is."""
    paragraphs: list[str] = []
    tables: list[Table] = []
    drawn: list[Chart] = []
    names = {method.method_id: method.name for method in cohort.entrants}
    answers = [found for found in cohort.reliabilities if found.method_id in names]
    for sign in _signs(cohort):
        calibrated = sign.known(answers)
        if calibrated:
            paragraphs.append(_calibration_in_words(sign, calibrated))
            drawn.append(_calibration_chart(sign, calibrated))
            tables.append(_calibration_table(sign, names, calibrated))
    stable = [found for found in cohort.stabilities if found.method_id in names]
    if stable:
        paragraphs.append(
            "Ranks: a score has an interval of 95 % from its draws, and a segment the ranks that "
            "it would have at the ends of it. A wide range of ranks means that the order of the "
            "list is not to be trusted, though the segments on it may be."
        )
        tables.append(_stability_table(names, stable))
    if cohort.coverages:
        paragraphs.append(
            "Other noise: where a method was run twice with other noise, so many of its scores "
            "differ by no more than an interval of 95 % allows. Less than 95 % means that the "
            "intervals are too narrow."
        )
        tables.append(
            Table(
                "The same method under two noise plans",
                ("method", "noise", "scores", "within the interval", "correlation of ranks"),
                tuple(
                    (
                        found.name,
                        found.differs,
                        f"{found.scores:,}",
                        f"{100 * found.coverage:.1f} %",
                        fixed(found.rank_correlation),
                    )
                    for found in cohort.coverages
                ),
            )
        )
    if not paragraphs:
        return None
    return Section("How sure", tuple(paragraphs), tuple(drawn), tables=tuple(tables))


def _calibration_in_words(sign: _Sign, calibrated: Sequence[_Known]) -> str:
    said = (
        f"A query’s {sign.name} is {sign.meaning}. It is worth something if queries of more "
        f"{sign.name} have a higher LDS. "
    )
    confirming = _half(calibrated, "confirming")
    if not confirming:
        return said + "There are no queries in the confirming half to try it on."
    said += (
        "On the confirming half, all methods together, the correlation is "
        f"{fixed(_rank_correlation(confirming))}. "
    )
    if not sign.threshold:
        return said + f"No threshold is set ({sign.setting} is 0), so every query is attributed."
    above, below = _kept(confirming, sign.threshold)
    said += f"Below the threshold, {sign.setting} = {sign.threshold:g}, a query is not attributed: "
    if not below:
        return said + f"all {len(confirming)} answers reach it."
    return said + (
        f"{len(above)} of {len(confirming)} answers reach it; their mean LDS of evidence is "
        f"{fixed(_mean(above))}, and that of those that do not {fixed(_mean(below))}."
    )


def _calibration_chart(sign: _Sign, calibrated: Sequence[_Known]) -> Chart:
    groups = {
        f"{half} half": (
            np.array([value for value, _ in part]),
            np.array([found.evidence_lds for _, found in part]),
        )
        for half in HALVES
        if (part := _half(calibrated, half))
    }
    return Chart(
        f"LDS of evidence by {sign.name}: each query of each method, pale, and means of equally "
        "many ± standard error",
        "; ".join(
            f"{name}: mean LDS of evidence {fixed(float(y.mean()))} at a median {sign.name} of "
            f"{fixed(float(np.median(x)))}"
            for name, (x, y) in groups.items()
        ),
        partial(
            charts.calibration,
            groups,
            sign.name,
            "LDS of evidence",
            threshold=(f"threshold, {sign.threshold:g}", sign.threshold)
            if sign.threshold
            else None,
            scale=sign.scale,
        ),
    )


def _calibration_table(sign: _Sign, names: dict[str, str], calibrated: Sequence[_Known]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for method_id, name in names.items():
        own = [(value, found) for value, found in calibrated if found.method_id == method_id]
        if not own:
            continue
        halves = [_half(own, half) for half in HALVES]
        above, below = _kept(halves[1], sign.threshold)
        rows.append(
            (
                name,
                fixed(float(np.median([value for value, _ in own]))),
                *(fixed(_rank_correlation(half)) for half in halves),
                f"{100 * len(above) / len(halves[1]):.0f} %" if halves[1] else "–",
                fixed(_mean(above)),
                fixed(_mean(below)),
            )
        )
    return Table(
        f"Does {sign.name} foretell the LDS of evidence? Its median, and correlations by ranks "
        "over queries; what is attributed, and its mean LDS, are of the confirming half",
        (
            "method",
            sign.name,
            *(f"correlation, {half}" for half in HALVES),
            "attributed",
            "LDS of these",
            "of the others",
        ),
        tuple(rows),
    )


def _stability_table(names: dict[str, str], stable: Sequence[Stability]) -> Table:
    found = {each.method_id: each for each in stable}
    return Table(
        "Where chance in the draws could have put segments, medians over queries; coverage: how "
        "often intervals of 95 % from one half of the draws and from the other meet",
        ("method", "segments", "the first, at worst", "the tenth, from", "to", "coverage"),
        tuple(
            (
                name,
                f"{each.segments:,}",
                fixed(each.first_worst, 0),
                fixed(each.tenth_best, 0),
                fixed(each.tenth_worst, 0),
                "–" if each.coverage is None else f"{100 * each.coverage:.1f} %",
            )
            for method_id, name in names.items()
            if (each := found.get(method_id)) is not None
        ),
    )


def _half(calibrated: Sequence[_Known], half: str) -> list[_Known]:
    return [(value, found) for value, found in calibrated if found.half == half]


def _kept(calibrated: Sequence[_Known], threshold: float) -> tuple[list[float], list[float]]:
    """The LDS of evidence of the answers that reach a threshold, and of those that do not."""
    above = [found.evidence_lds for value, found in calibrated if value >= threshold]
    return above, [found.evidence_lds for value, found in calibrated if value < threshold]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _rank_correlation(calibrated: Sequence[_Known]) -> float | None:
    """Spearman's; None where one of the two has no order."""
    one = [value for value, _ in calibrated]
    other = [found.evidence_lds for _, found in calibrated]
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return float(stats.spearmanr(one, other).statistic)
