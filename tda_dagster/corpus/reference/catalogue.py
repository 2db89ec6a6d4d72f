"""What the study is made of: collections, works, instruments, ensembles, performers, labels.

The facts are data (`catalogue.toml`, `works.csv`); this module gives them types and decides which
tracks a study of a given size contains. It opens no score.
"""

import csv
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import chain, zip_longest
from typing import Any, Literal

VersionKind = Literal["instruments", "transposed"]

BASES_PER_VERSION = 5  # every fifth excerpt is rendered a second time


@dataclass(frozen=True)
class Instrument:
    """One General MIDI instrument, with what it takes to balance it against the others."""

    name: str
    program: int
    volume: int
    hold: float


@dataclass(frozen=True)
class Ensemble:
    """Who plays: instruments from the highest part to the lowest, sounding `octaves` higher."""

    name: str
    family: str
    parts: tuple[Instrument, ...]
    octaves: int = 0


@dataclass(frozen=True)
class Performer:
    """A fictional performer, and the fictional label that most of its recordings appear on."""

    name: str
    plays: frozenset[str]
    label: str


@dataclass(frozen=True)
class Collection:
    """A body of real compositions that share an encoding and its licence."""

    id: str
    name: str
    licence: str
    ensembles: tuple[Ensemble, ...]


@dataclass(frozen=True)
class Work:
    """One composition: `path` inside music21's corpus, and the tune number in an ABC tune book.

    `bpm` is quarter notes a minute; `excerpts` is how many base tracks are cut from the work;
    `licence` is that of its collection unless its file says otherwise.
    """

    collection: Collection
    slug: str
    path: str
    tune: int | None
    title: str
    composer: str
    form: str
    bpm: float
    excerpts: int
    licence: str

    @property
    def id(self) -> str:
        return f"{self.collection.id}-{self.slug}"


@dataclass(frozen=True)
class PlannedTrack:
    """One track of the study: an excerpt of a work, as its base rendering or as a version of it."""

    work: Work
    excerpt_index: int
    version_kind: VersionKind | None


@dataclass(frozen=True)
class Catalogue:
    """Everything the study can draw on."""

    works: tuple[Work, ...]
    performers: tuple[Performer, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted({performer.label for performer in self.performers}))


@cache
def load_catalogue() -> Catalogue:
    """Read the catalogue that ships with the package."""
    here = resources.files(__package__)
    facts = tomllib.loads(here.joinpath("catalogue.toml").read_text(encoding="utf-8"))
    works = here.joinpath("works.csv").read_text(encoding="utf-8").splitlines()
    collections = _collections(facts)
    return Catalogue(
        works=tuple(_work(row, collections) for row in csv.DictReader(works)),
        performers=tuple(
            Performer(entry["name"], frozenset(entry["plays"]), entry["label"])
            for entry in facts["performers"]
        ),
    )


def plan_study(works: Sequence[Work], tracks: int | None = None) -> list[PlannedTrack]:
    """The tracks of a study, best spread first: any beginning of the list is a good small study.

    Collections take turns, and after every fifth base track comes a version of it, of both kinds
    alternately. `tracks` keeps that many from the beginning; None keeps all.
    """
    by_collection: dict[str, list[PlannedTrack]] = {}
    for work in works:
        by_collection.setdefault(work.collection.id, []).extend(
            PlannedTrack(work, index, None) for index in range(work.excerpts)
        )
    turns = zip_longest(*by_collection.values())
    bases = [base for base in chain.from_iterable(turns) if base is not None]
    kinds: tuple[VersionKind, ...] = ("instruments", "transposed")
    plan: list[PlannedTrack] = []
    for number, base in enumerate(bases):
        plan.append(base)
        version, remainder = divmod(number, BASES_PER_VERSION)
        if remainder == 0:
            kind = kinds[version % len(kinds)]
            plan.append(PlannedTrack(base.work, base.excerpt_index, kind))
    return plan[:tracks]


def _collections(facts: dict[str, Any]) -> dict[str, Collection]:
    instruments = {
        name: Instrument(name, **facts["instruments"][name]) for name in facts["instruments"]
    }
    ensembles = {
        id_: Ensemble(
            name=entry["name"],
            family=entry["family"],
            parts=tuple(instruments[part] for part in entry["parts"]),
            octaves=entry.get("octaves", 0),
        )
        for id_, entry in facts["ensembles"].items()
    }
    return {
        id_: Collection(
            id_,
            entry["name"],
            entry["licence"],
            tuple(ensembles[ensemble] for ensemble in entry["ensembles"]),
        )
        for id_, entry in facts["collections"].items()
    }


def _work(row: dict[str, str], collections: dict[str, Collection]) -> Work:
    return Work(
        collection=collections[row["collection"]],
        slug=row["slug"],
        path=row["path"],
        tune=int(row["tune"]) if row["tune"] else None,
        title=row["title"],
        composer=row["composer"],
        form=row["form"],
        bpm=float(row["bpm"]),
        excerpts=int(row["excerpts"]),
        licence=row["licence"] or collections[row["collection"]].licence,
    )
