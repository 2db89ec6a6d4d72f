"""The asset graph: one module per group, in the order of the data flow.

What belongs here: what each asset reads, which settings it depends on, which library function it
calls, and what a person wants to see of it. How music is cut, trained on, unlearned or scored is
the library's business.
"""

from assets import (  # noqa: F401  (importing them declares them)
    attribution,
    base,
    coalitions,
    cohort,
    counterfactual,
    dataset,
    evaluation,
    fidelity,
    losses,
    payout,
    report,
    unlearned,
    warehouse,
)
