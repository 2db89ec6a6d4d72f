"""What the verdict page is filled with.

What belongs here: what is known of a bench, without a word on where it is from or how it looks.
None is not known.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tda_dagster.report.bench.wording import between, fixed, signed

Reading = Literal["evidence_lds", "lds"]
"""What of a method's scores foretells: evidence, which shares are made of, or the scores as they
are. As in `v_bench`, and so are the fields of `Method` and of `Query`."""

OURS = "fim_unlearning"
"""The method whose standing the page is about: that of arXiv:2506.18312."""

READINGS: Mapping[Reading, str] = {"evidence_lds": "LDS of evidence", "lds": "LDS of raw scores"}

FAMILIES = ("unlearning", "gradient", "similarity", "peer", "control")
"""In the order of their colours; families of other names come after them."""


@dataclass(frozen=True)
class Lds:
    """A linear datamodelling score with its interval of 95 %, and what it is on the halves, which
    a single query or subset has none of."""

    value: float
    low: float
    high: float
    choosing: float | None
    confirming: float | None
    confirming_low: float | None
    confirming_high: float | None

    def __str__(self) -> str:
        return f"{fixed(self.value)} (95 % interval {between(self.low, self.high)})"

    @property
    def to_choose_by(self) -> float:
        """What settings are chosen by."""
        return self.value if self.choosing is None else self.choosing


@dataclass(frozen=True)
class Difference:
    """By how much one thing is better than another, with its interval of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{signed(self.value, 3)} ({fixed(self.low, 3)} to {fixed(self.high, 3)})"

    @property
    def is_chance(self) -> bool:
        """Whether it may be none."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Method:
    """A method spec's row of `v_bench`, where units are said, with the names of the experiments it
    is of and its settings. `name` is the shortest that tells it from the others beside it."""

    name: str
    method_id: str
    method: str
    label: str
    family: str
    evidence_lds: Lds
    lds: Lds
    noise_ceiling: float | None
    payout_error: float | None
    payout_error_unequal: float | None
    rise: float | None
    rise_se: float | None
    similar_timbre: float | None
    similar_melody: float | None
    planted: float | None
    planted_copy: float | None
    planted_version: float | None
    planted_mix: float | None
    seconds_per_query: float | None
    bytes_per_query: float | None
    experiments: frozenset[str]
    config: Mapping[str, Any]

    @property
    def short(self) -> str:
        """The method without its settings."""
        return self.label.partition(", ")[0]

    @property
    def settings(self) -> str:
        """What the label says of its settings."""
        return self.label.partition(", ")[2]

    def score(self, reading: Reading) -> Lds:
        """What a reading of its scores is worth."""
        score: Lds = getattr(self, reading)
        return score


def named(methods: Sequence[Method]) -> tuple[Method, ...]:
    """The methods with names that tell them apart: without their settings where that is enough."""
    shared = Counter(method.short for method in methods)
    return tuple(
        replace(method, name=method.label if shared[method.short] > 1 else method.short)
        for method in methods
    )


def entrants(methods: Iterable[Method], reading: Reading) -> tuple[Method, ...]:
    """Each method once, in the settings that are best on the choosing half; the best method over
    all queries and subsets first. No method then gains from having been tried more often."""
    chosen: dict[str, Method] = {}
    for method in methods:
        rival = chosen.setdefault(method.method, method)
        if method.score(reading).to_choose_by > rival.score(reading).to_choose_by:
            chosen[method.method] = method
    order = sorted(chosen.values(), key=lambda m: (-m.score(reading).value, m.method_id))
    return named(order)


@dataclass(frozen=True)
class Query:
    """A query, and each method's scores on it, by method id."""

    query_id: str
    prompt: str
    evidence_lds: Mapping[str, float]
    lds: Mapping[str, float]


@dataclass(frozen=True)
class Reliability:
    """How reliable a method's scores of a query are (None without draws) and how far the best of
    them stands out, and what they foretell."""

    method_id: str
    half: str
    reliability: float | None
    prominence: float
    evidence_lds: float


@dataclass(frozen=True)
class Payout:
    """A row of `v_payout`, where its figures are explained: what a method would pay wrongly."""

    payout_error: float
    low: float
    high: float
    pro_rata: float
    equal: float
    power: float
    difference: float
    difference_low: float
    difference_high: float
    rank_correlation: float
    exact_error: float | None
    truth_halves: float | None
    truth_seeds: float | None


@dataclass(frozen=True)
class Coverage:
    """Two runs of a method with other noise: the share of scores within 95 % intervals of their
    difference, and how alike the two rank segments. `name` says what was run, and `differs` which
    noise."""

    name: str
    differs: str
    scores: int
    coverage: float
    rank_correlation: float | None


@dataclass(frozen=True)
class Stability:
    """Where chance in the draws could have put the first and the tenth segment of a method's list:
    medians over queries, among so many segments. `coverage` is the share of scores whose intervals
    of 95 % from one half of the draws and from the other meet."""

    method_id: str
    segments: int
    first_worst: float
    tenth_best: float
    tenth_worst: float
    coverage: float | None


@dataclass(frozen=True)
class Cohort:
    """Methods held against the retraining of one cohort, the highest LDS of evidence first.

    `settings` are those of `counterfactual` in params.yaml and `steps` the length of a training,
    as the ground truth has them; `settings` is empty and `steps` None where the warehouse does not
    say. `queries` have their scores under all subsets, and those that are `confirming` under that
    half of the subsets on which nothing was chosen. `differences` are by reading, half ("" for
    everything) and the ids of two entrants. `payouts` are by method id, assignment of tracks to
    parties and half ("" for everything). `tracks` are those that the model was trained
    on, `planted` counts held-out excerpts by what was planted of them, `devices` are those that the
    scores were computed on. `outdated` are the labels of methods that an earlier version held
    against retraining, without their evidence.
    """

    name: str
    methods: tuple[Method, ...]
    queries: tuple[Query, ...]
    confirming: tuple[Query, ...]
    reliabilities: tuple[Reliability, ...]
    differences: Mapping[tuple[Reading, str, str, str], Difference]
    payouts: Mapping[tuple[str, str, str], Payout]
    coverages: tuple[Coverage, ...]
    stabilities: tuple[Stability, ...]
    threshold_z: float | None
    min_reliability: float | None
    min_prominence: float | None
    tracks: int
    planted: Mapping[str, int]
    settings: Mapping[str, Any]
    steps: int | None
    devices: tuple[str, ...]
    outdated: tuple[str, ...]

    @property
    def entrants(self) -> tuple[Method, ...]:
        """Each method once, as it is judged by evidence."""
        return entrants(self.methods, "evidence_lds")

    @property
    def ours(self) -> Method | None:
        """The method that the page is about, in the settings that it is judged in by evidence."""
        return next((method for method in self.entrants if method.method == OURS), None)

    def difference(
        self, reading: Reading, one: Method, other: Method, half: str = ""
    ) -> Difference | None:
        """By how much one entrant is better than another; None where there are no halves."""
        return self.differences.get((reading, half, one.method_id, other.method_id))

    @property
    def ceiling(self) -> float | None:
        """The noise ceiling follows from the losses alone, so every method has the same."""
        return next((m.noise_ceiling for m in self.known("noise_ceiling")), None)

    def known(self, figure: str) -> list[Method]:
        """The methods that have a figure, best first."""
        return [method for method in self.methods if getattr(method, figure) is not None]


@dataclass(frozen=True)
class BenchReport:
    """Every cohort that models were retrained for; none where ground truth was not asked for."""

    cohorts: tuple[Cohort, ...]
