"""From a score on disk to plain notes. Time is in quarter notes.

Everything that knows music21's object model, except its keys, lives here.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tda_dagster.corpus.reference.catalogue import Work
from tda_dagster.corpus.reference.keys import key_name
from tda_dagster.errors import TdaError

EDGE = 1e-3  # quarter notes; two times closer than this are the same


class ScoreError(TdaError):
    """A work of the catalogue cannot be read, or holds no passage that makes an excerpt."""


@dataclass(frozen=True)
class Note:
    """A sounding note: MIDI `pitch`, `onset` and `length` in quarter notes, `part` from the top."""

    pitch: int
    onset: float
    length: float
    part: int

    @property
    def end(self) -> float:
        return self.onset + self.length


@dataclass(frozen=True)
class Score:
    """A whole work as notes sorted by onset; `bars` are the onsets of its down-beats.

    `upbeat` is how long before a down-beat its phrase begins, 0 where the work starts with a
    whole bar. `declared_key` is None where the file only has a key signature.
    """

    notes: tuple[Note, ...]
    parts: int
    bars: tuple[float, ...]
    bar_length: float
    beat_length: float
    upbeat: float
    declared_key: str | None


def read_score(work: Work) -> Score:
    """Parse a work from music21's corpus. Raises ScoreError when it is missing or has no notes."""
    from music21 import converter  # takes half a second, which only rendering should pay

    path = _corpus_root() / work.path
    if not path.is_file():
        raise ScoreError(
            f"{work.id}: the installed music21 has no {work.path}. "
            "Install music21 from its ordinary wheel, which carries the scores."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overfull bars are the encoders', and harmless here
        parsed: Any = converter.parse(path, number=work.tune, forceSource=True, storePickle=False)
    parts = list(parsed.parts)
    notes = [note for index, part in enumerate(parts) for note in _part_notes(part, index)]
    if not notes:
        raise ScoreError(f"{work.id}: {work.path} holds no notes.")
    bars, bar_length, upbeat = _metre([float(m.offset) for m in _bars_of(parts[0])])
    return Score(
        notes=tuple(sorted(notes, key=lambda n: (n.onset, n.part, n.pitch))),
        parts=len(parts),
        bars=bars,
        bar_length=bar_length,
        beat_length=_beat_length(parts[0]),
        upbeat=upbeat,
        declared_key=_declared_key(parts[0]) if path.suffix == ".abc" else None,
    )


def _metre(bar_lines: list[float]) -> tuple[tuple[float, ...], float, float]:
    """Down-beats, length of a bar and of the upbeat, from the onsets of all notated bars.

    An upbeat is notated as a short bar, at the start and again after inner repeats; those are not
    down-beats.
    """
    lengths = np.diff(bar_lines)
    if len(lengths) == 0:
        return tuple(bar_lines) or (0.0,), 4.0, 0.0
    bar_length = float(np.median(lengths))
    upbeat = float(lengths[0]) if lengths[0] < bar_length - EDGE else 0.0
    down_beats = tuple(
        onset
        for onset, length in zip(bar_lines, [*lengths, bar_length], strict=True)
        if not upbeat or abs(length - upbeat) > EDGE
    )
    return down_beats, bar_length, upbeat


def _part_notes(part: Any, index: int) -> list[Note]:
    """The notes of one part, ties joined, grace notes and chord symbols left out."""
    notes: list[Note] = []
    tied: dict[int, int] = {}  # pitch -> position in `notes` of the note that a tie still holds
    for onset, single in _written_notes(part):
        pitch, length = int(single.pitch.midi), float(single.quarterLength)
        tie = single.tie.type if single.tie else None
        position = tied.pop(pitch, None)
        if (
            position is not None
            and tie in ("stop", "continue")
            and abs(notes[position].end - onset) < EDGE
        ):
            notes[position] = replace(notes[position], length=notes[position].length + length)
        else:
            notes.append(Note(pitch, onset, length, index))
            position = len(notes) - 1
        if tie in ("start", "continue"):
            tied[pitch] = position
    return notes


def _written_notes(part: Any) -> Iterator[tuple[float, Any]]:
    """Every single notehead with its onset, in order of onset."""
    from music21 import harmony

    elements = [
        (float(bar.offset + voice_offset + element.offset), element)
        for bar in _bars_of(part)
        for voice_offset, voice in [(0.0, bar), *((v.offset, v) for v in bar.voices)]
        for element in voice.notes
    ]
    for onset, element in sorted(elements, key=lambda pair: pair[0]):
        # a ChordSymbol ("Am" above a tune) is a Chord to music21, but nothing to play
        if element.quarterLength > 0 and not isinstance(element, harmony.ChordSymbol):
            for single in element.notes if element.isChord else (element,):
                if single.isNote:
                    yield onset, single


def _bars_of(part: Any) -> list[Any]:
    return list(part.getElementsByClass("Measure"))


def _beat_length(part: Any) -> float:
    signatures = part.recurse().getElementsByClass("TimeSignature")
    return float(signatures[0].beatDuration.quarterLength) if signatures else 1.0


def _declared_key(part: Any) -> str | None:
    """Tonic and mode, as an ABC tune declares them; MusicXML writes major for want of better."""
    keys = part.recurse().getElementsByClass("Key")
    return key_name(keys[0]) if keys else None


@cache
def _corpus_root() -> Path:
    """Found without importing music21."""
    found = find_spec("music21")
    if found is None or not found.submodule_search_locations:
        raise ScoreError("The reference study needs music21, which carries its scores. Install it.")
    return Path(next(iter(found.submodule_search_locations))) / "corpus"
