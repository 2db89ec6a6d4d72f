"""The verdict in words: which method foretells retraining best, and how unlearning stands to it."""

from collections.abc import Sequence

from tda_dagster.report.bench.contents import READINGS, Cohort, Method, Reading, entrants
from tda_dagster.report.bench.wording import capitalised, listed

OURS = "fim_unlearning"
"""The method whose standing the verdict is about: that of arXiv:2506.18312."""

FAMILY = "unlearning"
"""Its family."""

NAMED = 3
"""Rivals that are mentioned by name."""


def headline(cohort: Cohort) -> tuple[str, str]:
    """The verdict by evidence, which is what artists are paid by, and the one by raw scores."""
    return (
        capitalised(verdict(cohort.methods, "evidence_lds")),
        f"By raw scores, {verdict(cohort.methods, 'lds')}",
    )


def verdict(methods: Sequence[Method], reading: Reading) -> str:
    """One sentence: which of the methods foretells retraining best, and how FIM unlearning stands
    to it. It wins when no other interval overlaps with its own, is tied with the best when theirs
    overlap, and loses otherwise. Further ones say how the best of its family stands, and what
    cannot be told from chance. Of several settings of a method the one is judged that is best on
    the choosing half."""
    judged = entrants(methods, reading)
    ours = next((method for method in judged if method.method == OURS), None)
    standing = _standing(judged, ours, reading)
    return standing + _of_the_family(judged, ours, reading) + _chance(judged, ours, reading)


def _standing(judged: Sequence[Method], ours: Method | None, reading: Reading) -> str:
    best, *others = judged
    quality = READINGS[reading]
    of_all = f"of {len(judged)} methods" if others else "of one method"
    highest = f"the highest {quality} {of_all} is that of {best.name}, {best.score(reading)}"
    if ours is None:
        return f"{highest}; FIM unlearning was not among them."
    own = ours.score(reading)
    if ours is best:
        rivals = [method for method in others if method.score(reading).overlaps(own)]
        if not rivals:
            return (
                f"{ours.name} wins: its {quality} is the highest {of_all}, {own}, and no other "
                "method's interval reaches into its own."
            )
        return (
            f"{ours.name} does not win outright: its {quality} is the highest {of_all}, {own}, "
            f"but it is tied with {listed((m.name for m in rivals), NAMED)}, whose "
            f"interval{'s overlap' if len(rivals) > 1 else ' overlaps'} with its own."
        )
    if best.score(reading).overlaps(own):
        return (
            f"{ours.name} does not win: {highest}, and {ours.name}, with {own}, is tied with it, "
            "for their intervals overlap."
        )
    above = [m.name for m in others if m.score(reading).low > own.high]
    as_to = f", as it does to {listed(above, NAMED)}" if above else ""
    return f"{ours.name} does not win: {highest}, to which it loses with {own}{as_to}."


def _of_the_family(judged: Sequence[Method], ours: Method | None, reading: Reading) -> str:
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
    own = first.score(reading)
    tied = best.score(reading).overlaps(own)
    return (
        f" The best method of unlearning is {first.name}, {own}, which "
        + ("is tied with" if tied else "loses to")
        + f" {best.name}."
    )


def _chance(judged: Sequence[Method], ours: Method | None, reading: Reading) -> str:
    if all(method.score(reading).low <= 0 for method in judged):
        return " None of them can be told from chance, which is an LDS of 0."
    if ours is not None and ours.score(reading).low <= 0:
        return f" {ours.name} cannot be told from chance, which is an LDS of 0."
    return ""
