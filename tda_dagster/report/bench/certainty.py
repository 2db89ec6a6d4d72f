"""The section on how sure scores are: whether reliability foretells being right, how far ranks
could move, and whether intervals hold what they promise."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from scipy import stats

from tda_dagster.report.bench import charts
from tda_dagster.report.bench.contents import Cohort, Reliability, Stability
from tda_dagster.report.bench.layout import Section
from tda_dagster.report.bench.wording import fixed
from tda_dagster.report.experiment import Cell, Chart, Table

HALVES = ("choosing", "confirming")


def how_sure(cohort: Cohort) -> Section | None:
    """What is known about the uncertainty of scores; None where nothing is."""
    paragraphs: list[str] = []
    tables: list[Table] = []
    drawn: tuple[Chart, ...] = ()
    names = {method.method_id: method.name for method in cohort.entrants}
    calibrated = [found for found in cohort.reliabilities if found.method_id in names]
    if calibrated:
        paragraphs.append(_calibration_in_words(cohort, calibrated))
        drawn = (_calibration_chart(cohort, calibrated),)
        tables.append(_calibration_table(cohort, names, calibrated))
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
    return Section("How sure", tuple(paragraphs), drawn, tables=tuple(tables))


def _calibration_in_words(cohort: Cohort, calibrated: Sequence[Reliability]) -> str:
    threshold = cohort.min_reliability
    said = (
        "A query’s reliability is the part of what tells its scores apart that is more than chance "
        "in the draws. It is worth something if queries of higher reliability have a higher LDS. "
    )
    if not threshold:
        return said + (
            "No threshold is set (shares.min_reliability is 0), so every query is attributed."
        )
    said += (
        f"Below the threshold, shares.min_reliability = {threshold:g}, a query is not attributed. "
    )
    confirming = [found for found in calibrated if found.half == "confirming"]
    above, below = _kept(confirming, threshold)
    return said + (
        f"On the confirming half, all methods together, {len(above)} of {len(confirming)} answers "
        f"reach it; their mean LDS of evidence is {fixed(_mean(above))}, and that of those that do "
        f"not {fixed(_mean(below))}."
        if confirming
        else "There are no queries in the confirming half to try it on."
    )


def _calibration_chart(cohort: Cohort, calibrated: Sequence[Reliability]) -> Chart:
    halves = {half: [found for found in calibrated if found.half == half] for half in HALVES}
    groups = {
        f"{half} half": (
            np.array([found.reliability for found in part]),
            np.array([found.evidence_lds for found in part]),
        )
        for half, part in halves.items()
        if part
    }
    threshold = cohort.min_reliability
    return Chart(
        "LDS of evidence by reliability: each query of each method, pale, and means of equally "
        "many ± standard error",
        "; ".join(
            f"{name}: mean LDS of evidence {fixed(float(y.mean()))} at a mean reliability of "
            f"{fixed(float(x.mean()))}"
            for name, (x, y) in groups.items()
        ),
        partial(
            charts.calibration,
            groups,
            "reliability",
            "LDS of evidence",
            threshold=(f"threshold, {threshold:g}", threshold) if threshold else None,
        ),
    )


def _calibration_table(
    cohort: Cohort, names: dict[str, str], calibrated: Sequence[Reliability]
) -> Table:
    threshold = cohort.min_reliability or 0.0
    rows: list[tuple[Cell, ...]] = []
    for method_id, name in names.items():
        own = [found for found in calibrated if found.method_id == method_id]
        if not own:
            continue
        halves = [[found for found in own if found.half == half] for half in HALVES]
        above, below = _kept(halves[1], threshold)
        rows.append(
            (
                name,
                fixed(_mean([found.reliability for found in own])),
                *(fixed(_rank_correlation(half)) for half in halves),
                f"{100 * len(above) / len(halves[1]):.0f} %" if halves[1] else "–",
                fixed(_mean(above)),
                fixed(_mean(below)),
            )
        )
    return Table(
        "Does reliability foretell the LDS of evidence? Correlations are by ranks over queries; "
        "what is attributed, and its mean LDS, are of the confirming half",
        (
            "method",
            "reliability",
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


def _kept(found: Sequence[Reliability], threshold: float) -> tuple[list[float], list[float]]:
    """The LDS of evidence of queries that are reliable enough, and of those that are not."""
    above = [each.evidence_lds for each in found if each.reliability >= threshold]
    return above, [each.evidence_lds for each in found if each.reliability < threshold]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _rank_correlation(found: Sequence[Reliability]) -> float | None:
    """Spearman's; None where one of the two has no order."""
    one, other = [f.reliability for f in found], [f.evidence_lds for f in found]
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return float(stats.spearmanr(one, other).statistic)
