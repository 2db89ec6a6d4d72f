"""The section on which methods are better than ours, and by more than chance."""

from functools import partial

from tda_dagster.report.bench import charts
from tda_dagster.report.bench.contents import Cohort, Reading
from tda_dagster.report.bench.layout import Section
from tda_dagster.report.bench.wording import listed
from tda_dagster.report.experiment import Chart, Table

READING: Reading = "evidence_lds"


def beside_ours(cohort: Cohort) -> Section | None:
    """By how much every method's LDS of evidence is above that of our method."""
    ours = cohort.ours
    if ours is None:
        return None
    found = [
        (method, everything, cohort.difference(READING, method, ours, "confirming"))
        for method in cohort.entrants
        if (everything := cohort.difference(READING, method, ours)) is not None
    ]
    if not found:
        return None
    halved = all(confirmed is not None for *_, confirmed in found)
    readings = {"all": [difference for _, difference, _ in found]}
    if halved:
        readings["confirming half"] = [c for *_, c in found if c is not None]
    surely = [m.name for m, difference, _ in found if difference.low > 0]
    confirmed = [m.name for m, _, c in found if c is not None and c.low > 0]
    said = (
        f"Better than {ours.name} by more than chance: {listed(surely) or 'none'}. "
        + (
            f"On the confirming half alone: {listed(confirmed) or 'none'}; the other half, on "
            "which settings were chosen, favours what has been tried in many of them. "
            if halved
            else ""
        )
        + "Both methods are drawn again with the same queries and subsets, so what makes some of "
        "these hard for every method is not in the interval, and a difference may be sure where "
        "the two intervals in the table of all figures overlap."
    )
    names = [method.name for method, *_ in found]
    return Section(
        f"Beside {ours.name}",
        (said,),
        (
            Chart(
                f"LDS of evidence above that of {ours.name}, with intervals of 95 %",
                "; ".join(f"{method.name}: {difference}" for method, difference, _ in found),
                partial(
                    charts.intervals,
                    names,
                    {
                        name: [(d.value, d.low, d.high) for d in differences]
                        for name, differences in readings.items()
                    },
                    "difference of the LDS of evidence",
                ),
            ),
        ),
        wide=True,
        tables=(
            Table(
                "Marked: better, with an interval above 0",
                ("method", *readings),
                tuple(
                    (name, *(str(differences[row]) for differences in readings.values()))
                    for row, name in enumerate(names)
                ),
                tuple(row for row, (_, difference, _) in enumerate(found) if difference.low > 0),
            ),
        ),
    )
