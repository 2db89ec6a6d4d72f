"""The section on what helped: evidence in place of raw scores, settings other than the bench's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

from tda_dagster.report.bench import charts
from tda_dagster.report.bench.contents import (
    READINGS,
    Cohort,
    Difference,
    Method,
    Query,
    Reading,
)
from tda_dagster.report.bench.layout import Section
from tda_dagster.report.bench.wording import departure, fixed, listed, short, signed
from tda_dagster.report.experiment import Chart, Table

MAIN = "bench"
"""The experiment that has each method in its default settings."""

NAMED = 5
"""What helped or harmed is mentioned by name, up to so many."""


def paired(differences: Sequence[float]) -> Difference:
    """The mean of two differences or more, with Student's t interval: queries are the sample."""
    values = np.asarray(differences)
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return Difference(mean, mean - reach, mean + reach)


@dataclass(frozen=True)
class Departure:
    """A method in other settings than the bench's: which, and by how much they raise its LDS."""

    method: Method
    changed: str
    gains: dict[Reading, Difference]

    def __str__(self) -> str:
        return f"{self.method.short}, {self.changed}"


def what_helped(cohort: Cohort) -> Section | None:
    """What raised an LDS, by how much, on the queries and subsets that nothing was chosen on."""
    confirming = cohort.confirming
    if len(confirming) < 2:
        return None
    measured = (
        f"Differences are means over the {len(confirming)} queries of the confirming half, under "
        "its half of the subsets; both sides of a difference have the same queries and subsets. "
        "Intervals are Student’s, of 95 %, of the paired differences over queries. Of 20 "
        "of them about one excludes 0 by chance alone.",
    )
    found = sorted(
        departures(cohort.methods, confirming),
        key=lambda d: (-d.gains["evidence_lds"].value, d.method.method_id),
    )
    if not found:
        return Section("What helped", (_evidence(cohort.entrants, confirming), *measured))
    return Section(
        "What helped",
        (_evidence(cohort.entrants, confirming), _settings(found), *measured),
        (
            Chart(
                "What other settings than the bench’s add, with intervals of 95 %",
                "; ".join(f"{d}: {d.gains['evidence_lds']}" for d in found),
                partial(
                    charts.intervals,
                    [short(str(d), 90) for d in found],
                    {
                        name: [
                            (d.gains[reading].value, d.gains[reading].low, d.gains[reading].high)
                            for d in found
                        ]
                        for reading, name in READINGS.items()
                    },
                    "difference of the LDS",
                ),
            ),
        ),
        wide=True,
        tables=(
            Table(
                "Settings as in params.yaml; marked: better by evidence, with an interval above 0",
                ("method", "changed", *(f"{name}, difference" for name in READINGS.values())),
                tuple(
                    (d.method.short, d.changed, *(str(d.gains[reading]) for reading in READINGS))
                    for d in found
                ),
                tuple(i for i, d in enumerate(found) if d.gains["evidence_lds"].low > 0),
            ),
        ),
    )


def departures(methods: Sequence[Method], queries: Sequence[Query]) -> Iterable[Departure]:
    """Every spec beside its method's default one, where there is one default and no doubt."""
    defaults: dict[str, list[Method]] = {}
    for method in methods:
        if MAIN in method.experiments:
            defaults.setdefault(method.method, []).append(method)
    for method in methods:
        default = defaults.get(method.method, [])
        if len(default) != 1 or default[0] is method:
            continue
        gains = {
            reading: paired(_apart(queries, (method, reading), (default[0], reading)))
            for reading in READINGS
        }
        yield Departure(method, departure(default[0].config, method.config), gains)


def _apart(
    queries: Sequence[Query], one: tuple[Method, Reading], other: tuple[Method, Reading]
) -> list[float]:
    """By how much one reading of one method is better than another, query by query."""

    def scores(method: Method, reading: Reading) -> list[float]:
        return [getattr(query, reading)[method.method_id] for query in queries]

    return [a - b for a, b in zip(scores(*one), scores(*other), strict=True)]


def _evidence(methods: Sequence[Method], queries: Sequence[Query]) -> str:
    gains = [
        paired(_apart(queries, (method, "evidence_lds"), (method, "lds"))) for method in methods
    ]
    better = sum(gain.value > 0 for gain in gains)
    surely, worse = sum(gain.low > 0 for gain in gains), sum(gain.high < 0 for gain in gains)
    mean = float(np.mean([gain.value for gain in gains]))
    return (
        f"Evidence instead of raw scores: it foretells more for {better} of {len(gains)} methods, "
        f"for {surely} of them with an interval above 0 and for {worse} with one below. The mean "
        f"difference over methods is {signed(mean, 3)}."
    )


def _settings(found: Sequence[Departure]) -> str:
    helped = [d for d in found if d.gains["evidence_lds"].low > 0]
    harmed = [d for d in found if d.gains["evidence_lds"].high < 0]

    def said(which: Sequence[Departure], did: str) -> str:
        named = listed((f"{d} (by {fixed(d.gains['evidence_lds'].value)})" for d in which), NAMED)
        return f"By evidence {did}: {named}. "

    return (
        f"Other settings than the bench’s: {len(found)} tried. "
        + (said(helped, "helped") if helped else "By evidence none has an interval above 0. ")
        + (said(harmed, "harmed") if harmed else "")
        + f"Open, with an interval around 0: {len(found) - len(helped) - len(harmed)}."
    )
