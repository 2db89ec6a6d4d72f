"""The page: its sections in their order, and their layout."""

from collections.abc import Callable

from tda_dagster.report.bench.certainty import how_sure
from tda_dagster.report.bench.comparison import beside_ours
from tda_dagster.report.bench.contents import BenchReport, Cohort
from tda_dagster.report.bench.departures import what_helped
from tda_dagster.report.bench.foretelling import by_query, quality_and_cost
from tda_dagster.report.bench.layout import Section
from tda_dagster.report.bench.measured import how_measured
from tda_dagster.report.bench.payout import paid_wrongly, payout_verdict
from tda_dagster.report.bench.ranking import all_figures
from tda_dagster.report.bench.removal import left_out, planted
from tda_dagster.report.bench.verdict import headline
from tda_dagster.report.page import environment

SECTIONS: tuple[Callable[[Cohort], Section | None], ...] = (
    paid_wrongly,
    quality_and_cost,
    all_figures,
    beside_ours,
    what_helped,
    left_out,
    planted,
    by_query,
    how_sure,
    how_measured,
)
"""The page, from top to bottom; a section that there are no figures for is None."""


def render_bench(report: BenchReport) -> str:
    """Lay out a report as HTML; the same report gives the same text. Texts are never interpreted,
    and the page's content security policy forbids everything that is not inside it. Without
    cohorts the page says how ground truth is asked for."""
    found = [
        (cohort, _verdicts(cohort), [made for make in SECTIONS if (made := make(cohort))])
        for cohort in report.cohorts
    ]
    return environment().get_template("bench.html").render(cohorts=found)


def _verdicts(cohort: Cohort) -> tuple[str, ...]:
    """The page's first sentences: who would be paid wrongly, where that was measured, then which
    method is right about tracks."""
    paid = payout_verdict(cohort)
    return (*([paid] if paid else []), *headline(cohort))
