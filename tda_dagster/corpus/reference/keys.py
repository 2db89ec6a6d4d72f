"""Names of keys: as written in the metadata ('F# minor', 'Bb major', 'D mixolydian')."""

from collections.abc import Iterable
from typing import Any


def key_name(key: Any) -> str:
    """The name of a music21 key."""
    return f"{key.tonic.name.replace('-', 'b')} {key.mode}"


def estimate_key(notes: Iterable[tuple[int, float]]) -> str:
    """Major or minor key of (MIDI pitch, length in quarter notes) pairs.

    Krumhansl and Schmuckler's correlation with key profiles, as music21 computes it.
    """
    from music21 import note, stream

    passage: Any = stream.Stream()
    passage.append([note.Note(pitch, quarterLength=length) for pitch, length in notes])
    return key_name(passage.analyze("key"))


def transpose_key(name: str, semitones: int) -> str:
    """The key `semitones` higher, spelled with the fewest accidentals: F# minor, 2 -> G# minor."""
    from music21 import key, pitch

    tonic, mode = name.split(" ", 1)
    moved = pitch.Pitch((pitch.Pitch(tonic.replace("b", "-")).pitchClass + semitones) % 12)
    spellings = [key.Key(p.name, mode) for p in (moved, moved.getEnharmonic()) if abs(p.alter) <= 1]
    return key_name(min(spellings, key=lambda spelling: abs(spelling.sharps)))
