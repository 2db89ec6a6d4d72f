"""Sections on how well methods foretell retraining: against their cost, and query by query."""

from functools import partial

import numpy as np

from tda_dagster.report.bench import charts
from tda_dagster.report.bench.contents import FAMILIES, OURS, Cohort
from tda_dagster.report.bench.layout import Section
from tda_dagster.report.bench.wording import between, cost, fixed, listed, or_nan, short
from tda_dagster.report.experiment import Chart


def quality_and_cost(cohort: Cohort) -> Section | None:
    """The figure of the verdict."""
    timed = [(m, m.seconds_per_query) for m in cohort.entrants if m.seconds_per_query]
    if not timed:
        return None
    levels = {"chance": 0.0}
    if cohort.ceiling is not None:
        levels[f"noise ceiling, {fixed(cohort.ceiling)}"] = cohort.ceiling
    points = [
        charts.Marked(
            method.name,
            method.family,
            seconds,
            method.evidence_lds.value,
            method.evidence_lds.low,
            method.evidence_lds.high,
        )
        for method, seconds in timed
    ]
    # The usual families all of them, for the sake of their colours' places.
    families = [*FAMILIES, *sorted({method.family for method, _ in timed} - set(FAMILIES))]
    where = f", on {listed(cohort.devices)}" if cohort.devices else ""
    several = (
        " Of a method with several settings those are shown that are best on the choosing half."
        if len(cohort.entrants) < len(cohort.methods)
        else ""
    )
    return Section(
        "Quality against cost",
        (
            "Upwards: how well a method’s evidence foretells retraining, with intervals of 95 %. "
            "To the right: what a query costs. The best place is the upper left corner; at 0 a "
            "method knows no more than chance does." + several,
        ),
        (
            Chart(
                f"LDS of evidence against seconds per query{where}",
                "; ".join(
                    f"{method.name}: {fixed(method.evidence_lds.value)} at {cost(seconds)} s"
                    for method, seconds in timed
                ),
                partial(
                    charts.trade_off,
                    points,
                    families,
                    "seconds per query",
                    "LDS of evidence",
                    levels=levels,
                ),
            ),
        ),
        wide=True,
    )


BEST_SHOWN = 4


def by_query(cohort: Cohort) -> Section | None:
    """How much the best methods vary between queries."""
    asked = {method_id for query in cohort.queries for method_id in query.evidence_lds}
    shown = [method for method in cohort.entrants if method.method_id in asked]
    top = shown[:BEST_SHOWN]
    top += [method for method in shown[BEST_SHOWN:] if method.method == OURS]
    if not top:
        return None
    best = top[0]
    ordered = sorted(
        cohort.queries, key=lambda q: (-or_nan(q.evidence_lds.get(best.method_id)), q.query_id)
    )
    columns = {m.name: [or_nan(q.evidence_lds.get(m.method_id)) for q in ordered] for m in top}
    spread = float(np.nanstd(columns[best.name]))
    return Section(
        "Query by query",
        (
            "The LDS of evidence for each query alone, of the best methods: over queries that of "
            f"{best.name} has a standard deviation of {fixed(spread)}. A method that is right on "
            "average may be wrong about a piece. Part of the spread is chance: a query’s LDS is a "
            "rank correlation over a few subsets only.",
        ),
        (
            Chart(
                f"LDS of evidence of {len(ordered)} queries, the best of {best.name} on top",
                "; ".join(
                    f"{name}: {between(float(np.nanmin(v)), float(np.nanmax(v)))}"
                    for name, v in columns.items()
                ),
                partial(
                    charts.dots,
                    [short(query.prompt or query.query_id) for query in ordered],
                    columns,
                    "LDS of evidence",
                ),
            ),
        ),
        wide=True,
    )
