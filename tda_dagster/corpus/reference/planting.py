"""Excerpts whose influence is known by construction: held out, and planted in training.

A planted excerpt is held out itself, and one track of the training set was made from it: an exact
copy, another rendition, or a mix with another track. Whoever attributes the excerpt must find that
track.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import soundfile

from tda_dagster.corpus.reference.catalogue import PlannedTrack
from tda_dagster.corpus.reference.synthesis import PEAK, write_flac
from tda_dagster.errors import TdaError

PlantKind = Literal["copy", "instruments", "mix"]


@dataclass(frozen=True)
class Planted:
    """An excerpt that is held out, and what of it is planted in training; a mix is with `host`."""

    excerpt: PlannedTrack
    kind: PlantKind
    host: PlannedTrack


def choose_planted(plan: Sequence[PlannedTrack], count: int) -> list[Planted]:
    """`count` excerpts spread over the plan, the kinds in turn. None of them has another rendition
    in the plan; a host is the next such excerpt. Raises TdaError for more than half of those."""
    rendered_again = {_excerpt(track) for track in plan if track.version_kind}
    alone = [track for track in plan if _excerpt(track) not in rendered_again]
    if count > len(alone) // 2:
        raise TdaError(
            f"dataset.reference.planted: {count} excerpts cannot be planted in a study with "
            f"{len(alone)} that have no other rendition; ask for at most {len(alone) // 2}"
        )
    kinds: tuple[PlantKind, ...] = get_args(PlantKind)
    places = [number * len(alone) // count for number in range(count)]
    return [
        Planted(alone[place], kinds[number % len(kinds)], alone[place + 1])
        for number, place in enumerate(places)
    ]


def rendition(planted: Planted) -> PlannedTrack | None:
    """The track that must be rendered for it; copies and mixes are made from what is there."""
    if planted.kind != "instruments":
        return None
    return PlannedTrack(planted.excerpt.work, planted.excerpt.excerpt_index, "instruments")


def plant(
    planted: Planted, excerpt: Mapping[str, Any], host: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Write the audio of a copy or a mix beside that of its sources; returns its manifest row.

    `excerpt` and `host` are manifest rows whose `audio` is relative to `folder`. A mix has both at
    equal power, as long as the host, the shorter of the two from the beginning; its caption is the
    host's, for whoever buries an excerpt does not say so.
    """
    track_id = f"{excerpt['track_id']}-{planted.kind}"
    audio = f"{Path(excerpt['audio']).parent}/{track_id}.flac"
    made = {"track_id": track_id, "audio": audio, "version_of": excerpt["track_id"]}
    if planted.kind == "copy":
        shutil.copyfile(folder / excerpt["audio"], folder / audio)
        return {**excerpt, **made, "version_kind": "copy", "split": "train"}
    samples, rate_hz = soundfile.read(folder / host["audio"], dtype="float32")
    added, _ = soundfile.read(folder / excerpt["audio"], dtype="float32")
    length = min(len(samples), len(added))
    samples[:length] += added[:length] * (_power(samples) / _power(added))
    write_flac(folder / audio, samples * np.float32(PEAK / np.abs(samples).max()), rate_hz)
    return {**host, **made, "version_kind": "mix", "split": "train"}


def _power(samples: np.ndarray) -> np.float32:
    return np.float32(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _excerpt(track: PlannedTrack) -> tuple[str, int]:
    return track.work.id, track.excerpt_index
