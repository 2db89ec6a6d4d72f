"""From an excerpt to a performance: who plays, how fast, how high, how loud.

Seconds and velocities begin here; sound is made in `synthesis`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tda_dagster.corpus.reference.catalogue import Ensemble, Instrument, Performer
from tda_dagster.corpus.reference.excerpts import Excerpt
from tda_dagster.corpus.reference.scores import EDGE, Note

TIMING_SPREAD_S = 0.006
VELOCITY_SPREAD = 3.0


@dataclass(frozen=True)
class PlayedNote:
    """A note as played: MIDI pitch and velocity, start and end in seconds."""

    pitch: int
    velocity: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Voice:
    """All that one player plays."""

    instrument: Instrument
    notes: tuple[PlayedNote, ...]


@dataclass(frozen=True)
class Performance:
    """A passage ready to be sounded; `length_s` is where its last bar ends."""

    voices: tuple[Voice, ...]
    length_s: float


@dataclass(frozen=True)
class Interpretation:
    """What may differ between two versions of one excerpt. `bpm` is quarter notes a minute."""

    ensemble: Ensemble
    bpm: float
    transposition: int = 0


def perform(
    excerpt: Excerpt, interpretation: Interpretation, chance: np.random.Generator
) -> Performance:
    """Play an excerpt: metric accents, a swell over the phrase, small deviations from `chance`."""
    quarter_s = 60 / interpretation.bpm
    shift = interpretation.transposition + 12 * interpretation.ensemble.octaves
    players = _players(interpretation.ensemble.parts, excerpt.parts)
    played: list[list[PlayedNote]] = [[] for _ in players]
    for note in excerpt.notes:
        deviation = chance.normal(0, TIMING_SPREAD_S) if note.onset > 0 else 0.0
        start = max(0.0, note.onset * quarter_s + float(np.clip(deviation, -0.015, 0.015)))
        length = max(0.08, note.length * quarter_s * players[note.part].hold)
        loudness = _velocity(note, excerpt) + chance.normal(0, VELOCITY_SPREAD)
        played[note.part].append(
            PlayedNote(
                pitch=note.pitch + shift,
                velocity=int(np.clip(round(loudness), 30, 118)),
                start_s=start,
                end_s=start + length,
            )
        )
    voices = tuple(
        Voice(player, tuple(notes)) for player, notes in zip(players, played, strict=True) if notes
    )
    return Performance(voices, excerpt.quarters * quarter_s)


def choose_interpretation(
    ensembles: Sequence[Ensemble], bpm: float, chance: np.random.Generator
) -> Interpretation:
    """The usual ensemble of a collection half of the time, else one of the others."""
    others = len(ensembles) - 1
    weights = [0.5, *([0.5 / others] * others)] if others else [1.0]
    return Interpretation(ensembles[int(chance.choice(len(ensembles), p=weights))], bpm)


def with_other_instruments(
    original: Interpretation, ensembles: Sequence[Ensemble], chance: np.random.Generator
) -> Interpretation:
    """The same music, tempo and key, played by another ensemble of the collection."""
    others = [ensemble for ensemble in ensembles if ensemble != original.ensemble]
    return Interpretation(
        others[int(chance.integers(len(others)))], original.bpm, original.transposition
    )


def transposed(
    original: Interpretation,
    ensembles: Sequence[Ensemble],
    length_s: float,
    chance: np.random.Generator,
) -> Interpretation:
    """Another ensemble, key and tempo; long excerpts get faster, short ones slower."""
    changed = with_other_instruments(original, ensembles, chance)
    factor = chance.uniform(1.08, 1.2)
    if length_s < 5 or (length_s < 9 and chance.random() < 0.5):
        factor = 1 / factor
    semitones = int(chance.choice([-5, -4, -3, -2, 2, 3, 4, 5]))
    return Interpretation(changed.ensemble, float(round(original.bpm * factor)), semitones)


def choose_performer(
    performers: Sequence[Performer], ensemble: Ensemble, chance: np.random.Generator
) -> Performer:
    """One of the performers who play what the ensemble needs."""
    able = [performer for performer in performers if ensemble.family in performer.plays]
    return able[int(chance.integers(len(able)))]


def choose_label(performer: Performer, labels: Sequence[str], chance: np.random.Generator) -> str:
    """The performer's own label three times out of four, else any of them."""
    if chance.random() < 0.75:
        return performer.label
    return labels[int(chance.integers(len(labels)))]


def _players(instruments: Sequence[Instrument], parts: int) -> list[Instrument]:
    """One instrument a part, spread from top to bottom when the numbers differ."""
    if parts == 1:
        return [instruments[0]]
    return [
        instruments[round(index * (len(instruments) - 1) / (parts - 1))] for index in range(parts)
    ]


def _velocity(note: Note, excerpt: Excerpt) -> float:
    swell = math.sin(math.pi * min(1.0, note.onset / max(excerpt.quarters, EDGE)))
    in_bar = (note.onset - excerpt.down_beat) % excerpt.bar_length
    if _near_multiple(in_bar, excerpt.bar_length):
        accent = 6
    elif _near_multiple(in_bar, excerpt.beat_length):
        accent = 2
    else:
        accent = -2
    melody = 6 if note.part == 0 else 0
    return 72 + 10 * swell + accent + melody


def _near_multiple(time: float, unit: float) -> bool:
    return abs(time / unit - round(time / unit)) < 0.01
