"""The section on the payer's question: how much money would go to the wrong rightsholders?"""

from functools import partial

from tda_dagster.report.bench import charts
from tda_dagster.report.bench.contents import Cohort, Method, Payout
from tda_dagster.report.bench.layout import Section
from tda_dagster.report.bench.wording import capitalised, fixed, listed
from tda_dagster.report.experiment import Chart, Table

CATALOGUES = {
    "rightsholder": "the study’s rightsholders",
    "unequal": "catalogues of very unequal sizes",
}
"""The assignments of tracks to parties, in words."""

BASELINES = {
    "pro_rata": "pro rata by seconds trained on",
    "equal": "everybody equally",
    "power": "by a fitted power of the catalogue’s size",
}
"""Ways to pay without attribution, in words, by their field of `Payout`."""


def payout_verdict(cohort: Cohort) -> str:
    """One or two sentences: of 100 units paid by the best method, how many go to the wrong
    rightsholders, and how that compares with paying pro rata; "" where it was not measured."""
    judged = _judged(cohort, "rightsholder", "")
    if not judged:
        return ""
    method, best = judged[0]
    surely = [m.name for m, p in judged if p.difference_high < 0]
    baseline = min(BASELINES, key=lambda name: getattr(best, name))
    return (
        f"Paid by {method.name}, {_percent(best.payout_error)} of the money would go to the wrong "
        f"rightsholders (95 % interval {_percent(best.low)} to {_percent(best.high)}); paid "
        f"{BASELINES[baseline]}, the best way without attribution, "
        f"{_percent(getattr(best, baseline))}. "
        + (
            f"Surely better than that: {listed(surely, 3)}."
            if surely
            else "No method is better than that by more than chance."
        )
    )


def paid_wrongly(cohort: Cohort) -> Section | None:
    """Payout errors of all methods beside those of paying without attribution."""
    known = [name for name in CATALOGUES if _judged(cohort, name, "")]
    if not known:
        return None
    return Section(
        "Who would be paid wrongly?",
        (
            "Models were trained on coalitions of rightsholders: on the catalogues of some of them "
            "alone. How much a query’s loss depends on whether a catalogue is there is what the "
            "catalogue is worth to the query. The payout error is the part of the money that goes "
            "to the wrong parties when the shares of a method are paid, and what it leaves "
            "unattributed is paid pro rata: 0 is exact, and lower is better.",
            *(_truth(cohort, name) for name in known),
        ),
        tuple(_chart(cohort, name) for name in known),
        wide=True,
        tables=tuple(_table(cohort, name) for name in known),
    )


def _judged(cohort: Cohort, catalogues: str, half: str) -> list[tuple[Method, Payout]]:
    """The methods whose payout error was measured, the least first."""
    found = [
        (method, payout)
        for method in cohort.entrants
        if (payout := cohort.payouts.get((method.method_id, catalogues, half))) is not None
    ]
    return sorted(found, key=lambda pair: (pair[1].payout_error, pair[0].method_id))


def _truth(cohort: Cohort, catalogues: str) -> str:
    """How far the truth itself is to be trusted."""
    _, payout = _judged(cohort, catalogues, "")[0]
    told = []
    if payout.truth_halves is not None:
        told.append(
            "the values from one half of the coalitions and from the other correlate within a "
            f"query by {fixed(payout.truth_halves)}"
        )
    if payout.truth_seeds is not None:
        told.append(f"those from one seed and from another by {fixed(payout.truth_seeds)}")
    if payout.exact_error is not None:
        told.append(
            "because the truth is an estimate, exact shares would be measured to have an error of "
            f"{fixed(payout.exact_error, 3)}"
        )
    if not told:
        return capitalised(f"{CATALOGUES[catalogues]}: how reliable the truth is, is not known.")
    return capitalised(f"{CATALOGUES[catalogues]}: {'; '.join(told)}.")


def _chart(cohort: Cohort, catalogues: str) -> Chart:
    judged = _judged(cohort, catalogues, "")
    _, first = judged[0]
    baseline = min(BASELINES, key=lambda name: getattr(first, name))
    return Chart(
        f"Payout error, {CATALOGUES[catalogues]}, with intervals of 95 % over queries",
        "; ".join(f"{m.name}: {fixed(p.payout_error, 3)}" for m, p in judged),
        partial(
            charts.intervals,
            [m.name for m, _ in judged],
            {"all queries": [(p.payout_error, p.low, p.high) for _, p in judged]},
            "payout error",
            reference=(BASELINES[baseline], getattr(first, baseline)),
        ),
    )


def _table(cohort: Cohort, catalogues: str) -> Table:
    judged = _judged(cohort, catalogues, "")
    confirmed = {m.method_id: p for m, p in _judged(cohort, catalogues, "confirming")}
    rows: list[tuple[str | float | None, ...]] = []
    for method, payout in judged:
        own = confirmed.get(method.method_id)
        rows.append(
            (
                method.name,
                fixed(payout.payout_error, 3),
                _signed_interval(payout),
                None if own is None else fixed(own.payout_error, 3),
                None if own is None else _signed_interval(own),
                fixed(payout.rank_correlation),
            )
        )
    _, first = judged[0]
    half = next(iter(confirmed.values()), None)
    for name, words in BASELINES.items():
        rows.append(
            (
                capitalised(words),
                fixed(getattr(first, name), 3),
                "",
                None if half is None else fixed(getattr(half, name), 3),
                "",
                "",
            )
        )
    better = tuple(row for row, (_, p) in enumerate(judged) if p.difference_high < 0)
    return Table(
        f"{capitalised(CATALOGUES[catalogues])}. Marked: better than the best way to pay without "
        "attribution, with an interval below 0",
        (
            "method",
            "payout error",
            "less the best without attribution",
            "confirming half",
            "less the best without attribution",
            "rank correlation",
        ),
        tuple(rows),
        better,
    )


def _signed_interval(payout: Payout) -> str:
    return (
        f"{fixed(payout.difference, 3)} ({fixed(payout.difference_low, 3)} to "
        f"{fixed(payout.difference_high, 3)})"
    )


def _percent(share: float) -> str:
    return f"{fixed(100 * share, 1)} %"
