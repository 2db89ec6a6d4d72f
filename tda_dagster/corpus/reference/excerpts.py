"""Which passages of a score make good excerpts. Time is in quarter notes, limits in seconds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tda_dagster.corpus.reference.catalogue import Work
from tda_dagster.corpus.reference.chance import generator_for
from tda_dagster.corpus.reference.keys import estimate_key
from tda_dagster.corpus.reference.scores import EDGE, Note, Score, ScoreError

SHORTEST_S, LONGEST_S = 3.0, 11.6  # what an excerpt may last
AIM_S = (3.2, 10.5)  # what it aims at: uniform between these
LONGEST_SILENCE_S = 0.8
LONG_BAR = 6.0  # quarter notes; longer bars are medieval, and cuts between them are needed
HELD_NOTE_COSTS_S = 0.4  # ending across a held note is as bad as missing the aim by this


@dataclass(frozen=True)
class Excerpt:
    """A passage whose first note sounds at 0.

    `bar` is the number of its first down-beat in the work, which comes at `down_beat`; `quarters`
    is its length.
    """

    notes: tuple[Note, ...]
    parts: int
    bar: int
    down_beat: float
    bar_length: float
    beat_length: float
    key: str
    quarters: float

    @property
    def attacks(self) -> int:
        """At how many different moments notes begin."""
        return len({round(note.onset, 3) for note in self.notes})


def cut_excerpts(score: Score, work: Work, bpm: Sequence[float], seed: int) -> list[Excerpt]:
    """`work.excerpts` passages in order, spread over the work, none overlapping.

    `bpm[i]` is the tempo of the i-th, in quarter notes a minute. Passages run from bar line to bar
    line (both moved back by the upbeat), cut as few held notes as possible and have no long
    silence. Raises ScoreError when the work has too few such passages.
    """
    timeline = _Timeline(score)
    excerpts: list[Excerpt] = []
    free_from = 0.0
    for index in range(work.excerpts):
        chance = generator_for(seed, work.id, "excerpt", index)
        share = (timeline.end - free_from) / (work.excerpts - index)
        passage = timeline.find_passage(60 / bpm[index], free_from, free_from + share, chance)
        if passage is None:
            raise ScoreError(
                f"{work.id}: no passage for excerpt {index + 1} of {work.excerpts}. "
                "Ask for fewer excerpts of this work in works.csv."
            )
        excerpts.append(_cut(score, *passage))
        free_from = max(passage[1], free_from + share)
    return excerpts


class _Timeline:
    """A score seen as intervals of sound, with the places where it may be cut."""

    def __init__(self, score: Score) -> None:
        self._onsets = np.array([note.onset for note in score.notes])
        self._ends = np.array([note.end for note in score.notes])
        self.end = float(self._ends.max())
        cuts = {0.0, self.end, *(bar - score.upbeat for bar in score.bars)}
        if score.bar_length > LONG_BAR:
            cuts |= {onset for onset in self._onsets.tolist() if self._held(onset) == 0}
        self._cuts = sorted(cut for cut in cuts if 0 <= cut <= self.end)

    def find_passage(
        self, quarter_s: float, earliest: float, latest: float, chance: np.random.Generator
    ) -> tuple[float, float] | None:
        """Start and end of a passage; it ends by `latest` if its aim can be met so."""
        aim = chance.uniform(*AIM_S) / quarter_s
        free = [cut for cut in self._cuts if cut >= earliest - EDGE]
        starts = [cut for cut in free if cut + aim <= latest + EDGE] or free[:1]
        shuffled = [starts[i] for i in chance.permutation(len(starts))]
        for start in sorted(shuffled, key=self._held):
            ends = [
                end
                for end in self._cuts
                if SHORTEST_S <= (end - start) * quarter_s <= LONGEST_S
                and self._longest_silence(start, end) * quarter_s < LONGEST_SILENCE_S
            ]
            if ends:
                costs = [
                    abs(end - start - aim) * quarter_s + HELD_NOTE_COSTS_S * self._held(end)
                    for end in ends
                ]
                return start, ends[int(np.argmin(costs))]
        return None

    def _held(self, time: float) -> int:
        """How many notes sound through `time`."""
        return int(((self._onsets < time - EDGE) & (self._ends > time + EDGE)).sum())

    def _longest_silence(self, start: float, end: float) -> float:
        """The longest stretch of [start, end) in which none of its notes sounds."""
        inside = (self._onsets >= start - EDGE) & (self._onsets < end - EDGE)
        onsets = np.append(self._onsets[inside], end)
        sounded_until = np.maximum.accumulate(np.insert(self._ends[inside], 0, start))
        return float((onsets - sounded_until).max())


def _cut(score: Score, start: float, end: float) -> Excerpt:
    inside = [note for note in score.notes if start - EDGE <= note.onset < end - EDGE]
    first = inside[0].onset
    notes = tuple(
        replace(note, onset=note.onset - first, length=min(note.end, end) - note.onset)
        for note in inside
    )
    bar = int(np.searchsorted(score.bars, start - EDGE))
    down_beat = score.bars[bar] if bar < len(score.bars) else start
    return Excerpt(
        notes=notes,
        parts=score.parts,
        bar=bar + 1,
        down_beat=down_beat - first,
        bar_length=score.bar_length,
        beat_length=score.beat_length,
        # a signature that holds for the whole work says little about one passage of it
        key=score.declared_key or _estimate_key(notes),
        quarters=end - first,
    )


def _estimate_key(notes: Iterable[Note]) -> str:
    return estimate_key((note.pitch, note.length) for note in notes)
