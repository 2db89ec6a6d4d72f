"""Support: which part of a query a method's evidence decides; the rest is unattributed.

Scores know who shaped a query far better than by how much. Shares that follow the evidence alone
are too far from pro rata: they would pay more money wrongly than shares in between. The support of
a method is the weight of its evidence that has the least payout error on the bench, on the half of
the queries that settings are chosen on. The measured values come with the package (`support.json`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

_FILE = "support.json"


@dataclass(frozen=True)
class Support:
    """The weight of a method's evidence, `support`, in [0, 1]; and `spread`, which intervals of
    payouts are made of: 90 of 100 true shares lie within spread · √(payout · (1 − payout) + FLOOR)
    of the payout. `spread` is None where it was not measured."""

    support: float
    spread: float | None


FLOOR = 0.01
"""Keeps the interval of a small payout from vanishing: who is paid nothing may have a share."""

UNMEASURED = Support(0.0, None)
"""A method that was not measured attributes nothing: what its evidence is worth is unknown."""


def write_support(measured: Mapping[str, Support], path: Path) -> None:
    """Write the file of measured values, by method."""
    text = {method: asdict(found) for method, found in sorted(measured.items())}
    path.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


def support_of(method: str, chosen: float | None) -> Support:
    """The support of a method: the `chosen` one (`shares.support`), else the measured one."""
    found = measured_support().get(method, UNMEASURED)
    return found if chosen is None else Support(chosen, found.spread)


@cache
def measured_support() -> Mapping[str, Support]:
    """What was measured on the bench, by method."""
    text = (files(__package__) / _FILE).read_text(encoding="utf-8")
    return {method: Support(**found) for method, found in json.loads(text).items()}


def support_digest() -> str:
    """What `measured_support` says, for recipes."""
    return hashlib.sha256((files(__package__) / _FILE).read_bytes()).hexdigest()
