"""The verdict in words: which method foretells retraining best, and how unlearning stands to it."""

from collections.abc import Callable, Sequence

from tda_dagster.report.bench.contents import (
    OURS,
    READINGS,
    Cohort,
    Difference,
    Method,
    Reading,
    entrants,
)
from tda_dagster.report.bench.wording import capitalised, listed

FAMILY = "unlearning"
"""The family of our method."""

NAMED = 3
"""Rivals that are mentioned by name."""


def headline(cohort: Cohort) -> tuple[str, str]:
    """The verdict by evidence, which is what artists are paid by, and the one by raw scores."""
    return (
        capitalised(verdict(cohort, "evidence_lds")),
        f"By raw scores, {verdict(cohort, 'lds')}",
    )


Apart = Callable[[Method, Method], Difference]


def verdict(cohort: Cohort, reading: Reading) -> str:
    """One sentence: which of the methods foretells retraining best, and how FIM unlearning stands
    to it. It wins when it is better than every other one by more than chance, is tied with those
    that it cannot be told from, and loses otherwise; chance is the interval of the difference,
    under the same draws of queries and subsets for both. Further ones say how the best of its
    family stands, and what cannot be told from an LDS of 0. Of several settings of a method the one
    is judged that is best on the choosing half."""
    judged = entrants(cohort.methods, reading)
    ours = next((method for method in judged if method.method == OURS), None)

    def apart(one: Method, other: Method) -> Difference:
        found = cohort.difference(reading, one, other)
        assert found is not None  # over all queries and subsets it always is
        return found

    standing = _standing(judged, ours, reading, apart)
    return standing + _of_the_family(judged, ours, reading, apart) + _chance(judged, ours, reading)


def _standing(judged: Sequence[Method], ours: Method | None, reading: Reading, apart: Apart) -> str:
    best, *others = judged
    quality = READINGS[reading]
    of_all = f"of {len(judged)} methods" if others else "of one method"
    highest = f"the highest {quality} {of_all} is that of {best.name}, {best.score(reading)}"
    if ours is None:
        return f"{highest}; FIM unlearning was not among them."
    own = ours.score(reading)
    if ours is best:
        rivals = [method for method in others if apart(ours, method).is_chance]
        if not rivals:
            return (
                f"{ours.name} wins: its {quality} is the highest {of_all}, {own}, and above every "
                "other by more than chance."
            )
        return (
            f"{ours.name} does not win outright: its {quality} is the highest {of_all}, {own}, "
            f"but it cannot be told from {listed((m.name for m in rivals), NAMED)}: "
            f"{'the differences' if len(rivals) > 1 else 'the difference'} may be chance."
        )
    difference = apart(best, ours)
    if difference.is_chance:
        return (
            f"{ours.name} does not win: {highest}, and {ours.name}, with {own}, is tied with it: "
            f"the difference, {difference}, may be chance."
        )
    above = [m.name for m in others if m is not ours and apart(m, ours).low > 0]
    as_to = f" It loses to {listed(above, NAMED)}, too." if above else ""
    return (
        f"{ours.name} does not win: {highest}, to which it loses with {own}, a difference of "
        f"{difference}.{as_to}"
    )


def _of_the_family(
    judged: Sequence[Method], ours: Method | None, reading: Reading, apart: Apart
) -> str:
    """How the best method of unlearning stands, unless that has been said already."""
    family = [method for method in judged if method.family == FAMILY]
    best = judged[0]
    if not family or family[0] is ours is best:
        return ""
    first = family[0]
    if first is best:
        return f" {capitalised(best.name)} is a method of unlearning, too."
    if first is ours:
        others = len(family) > 1
        return " No other method of unlearning has a higher one." if others else ""
    tied = apart(best, first).is_chance
    return (
        f" The best method of unlearning is {first.name}, {first.score(reading)}, which "
        + ("cannot be told from" if tied else "loses to")
        + f" {best.name}."
    )


def _chance(judged: Sequence[Method], ours: Method | None, reading: Reading) -> str:
    if all(method.score(reading).low <= 0 for method in judged):
        return " None of them can be told from chance, which is an LDS of 0."
    if ours is not None and ours.score(reading).low <= 0:
        return f" {ours.name} cannot be told from chance, which is an LDS of 0."
    return ""
