"""The section on how all this was measured, and the question as SQL."""

from tda_dagster.report.bench.contents import Cohort
from tda_dagster.report.bench.layout import Section
from tda_dagster.report.bench.wording import fixed, listed, sizes
from warehouse.build import example_sql


def how_measured(cohort: Cohort) -> Section:
    """What was trained, what an LDS is, what chance and halves are."""
    paragraphs = [
        _trainings(cohort),
        "Linear datamodelling score (LDS, arXiv:2303.14186): what a method says of the tracks that "
        "a subset keeps is added up, which foretells how well a model trained on that subset "
        "knows the query. Over subsets this is compared with the loss that the query really has "
        "under each of these models, by Spearman’s rank correlation: 1 is the same order, 0 is "
        "chance, below 0 the order is rather the reverse. The mean over queries is shown. "
        "Intervals are bootstraps over queries and subsets.",
        _readings(cohort),
        "Chance in training: the same subset, trained on from another seed, gives other losses, "
        "so even a method that knew what to expect could not foretell them. "
        + (
            "Each subset was trained on once, so how much this is remains unknown."
            if cohort.ceiling is None
            else "From how well trainings of the same subset agree, such a method would have an "
            f"LDS of {fixed(cohort.ceiling)}: the noise ceiling."
        ),
        "Halves: the first half of the queries under the first half of the subsets is the choosing "
        "one, on which settings of methods may be chosen. The other half of the queries under the "
        "other half of the subsets confirms, and nothing is chosen on it. They are a quarter of "
        "the figures each, so their intervals are wider. Of a method with several "
        "settings the verdict takes those that are best on the choosing half.",
        "Cost: the seconds and the bytes of unlearning queries, of losses after that and of "
        f"scores, per query, when {len(cohort.queries)} are asked at once: what a method computes "
        "for all of them, such as the gradients of the training tracks, is shared among them. What "
        "is there before any method (Fisher information, embeddings) is not in it.",
    ]
    if cohort.outdated:
        paragraphs.append(
            "Not shown, for an earlier version held them against retraining without their evidence "
            f"(tda bench attribution does it anew): {listed(cohort.outdated)}."
        )
    paragraphs.append("The table as SQL (tda sql bench):")
    return Section("How it was measured", tuple(paragraphs), sql=example_sql("bench").strip())


def _readings(cohort: Cohort) -> str:
    """What is added up, in plain words."""
    threshold = (
        "" if cohort.threshold_z is None else f" ({cohort.threshold_z:g}, shares.threshold_z)"
    )
    return (
        "Raw scores and evidence: added up are either the scores as they are or, for the LDS of "
        "evidence, what is left of them in shares. For that, a score’s distance from the middle of "
        "all segments’ scores is measured in units of how far a usual one lies from it (a robust "
        f"z), and only what exceeds a threshold{threshold} is evidence; all other segments count "
        "as nothing. Where most segments had little part in a query their scores are chance, and "
        "added up over hundreds of segments chance drowns the few that had. Artists are "
        "paid by evidence, so the verdict, the order of the table and the figure of cost are about "
        "it."
    )


def _trainings(cohort: Cohort) -> str:
    """What ground truth was trained for, as far as the warehouse knows."""
    asked = f"{len(cohort.queries)} queries of the cohort {cohort.name}"
    settings = cohort.settings
    if not settings:
        return f"{asked}; the model has {cohort.tracks:,} training tracks."
    steps = "" if cohort.steps is None else f" for {cohort.steps:,} steps each"
    repeats = settings["repeats"]
    return (
        f"From {cohort.tracks:,} training tracks {settings['subsets']} random subsets were drawn "
        f"that keep {settings['fraction']:.0%} of them, and on each of these the model was "
        f"trained anew{steps}, "
        + (f"{repeats} times from other seeds. " if repeats > 1 else "once. ")
        + f"Under every one of these models the loss of {asked} was measured with "
        f"{settings['draws']} draws of noise that no method has seen. The most attributed "
        f"{sizes(settings['removed_tracks'])} tracks were left out for up to "
        f"{settings['removal_queries']} of the queries."
    )
