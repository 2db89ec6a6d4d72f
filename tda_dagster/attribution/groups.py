"""Groups of training segments, and how an effect of a group becomes scores of its segments.

What belongs here: what a group is, merging of many groups into few, and the distribution of a
group's effect. What the effect is, and how it is measured, is the business of the methods.
"""

import json
from collections.abc import Mapping, Sequence

import polars as pl
import torch
from torch import Tensor

from tda_dagster.errors import TdaError
from tda_dagster.quoting import shown

Groups = Mapping[str, tuple[int, ...]]
"""Name → the places of its segments among the training segments. Every segment is in one group."""

_NO_GROUP = {"audio", "audio_sha256", "extra"}
"""Columns of `dim_track` that say nothing of the music or of whose it is."""


class GroupError(TdaError):
    """Groups that cannot be formed."""


def groups_by(
    column: str, tracks: pl.DataFrame, segments: pl.DataFrame, order: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """The groups of training segments whose tracks have the same value in a column, by that value.

    Args:
        column: of `dim_track`, or of the manifest's other columns, which are in `extra`.
        tracks: rows of `dim_track`.
        segments: rows of `dim_segment`.
        order: ids of the training segments, in the order that places refer to.

    Tracks without a value form a group named "". Raises GroupError, naming the setting and the
    columns there are, for an unknown column.
    """
    value_of = dict(zip(tracks["track_id"], _values(column, tracks), strict=True))
    track_of = dict(segments.select("segment_id", "track_id").iter_rows())
    found: dict[str, list[int]] = {}
    for place, segment in enumerate(order):
        found.setdefault(value_of[track_of[segment]], []).append(place)
    return {name: tuple(found[name]) for name in sorted(found)}


def _values(column: str, tracks: pl.DataFrame) -> list[str]:
    own = [name for name in tracks.columns if name not in _NO_GROUP]
    if column in own:
        return tracks[column].cast(pl.String).fill_null("").to_list()
    extra = tracks["extra"].to_list() if "extra" in tracks.columns else [None] * tracks.height
    others = [json.loads(text) if text else {} for text in extra]
    named = sorted({name for row in others for name in row})
    if column not in named:
        raise GroupError(
            f"group: {shown(column)} is not a column of the tracks; choose one of: "
            f"{', '.join([*own, *named])}"
        )
    return [row.get(column) or "" for row in others]


def merged(groups: Groups, most: int) -> dict[str, tuple[str, ...]]:
    """At most `most` coarse groups of about equally many segments, each a tuple of groups' names.

    The groups are taken from the largest to the smallest (equal ones by name), and each goes to
    the coarse group that has the fewest segments by then. The result depends on nothing but the
    names and sizes. Coarse groups are named "coarse-000" and so on.
    """
    ordered = sorted(groups, key=lambda name: (-len(groups[name]), name))
    bins: list[list[str]] = [[] for _ in range(min(most, len(ordered)))]
    sizes = [0] * len(bins)
    for name in ordered:
        smallest = min(range(len(bins)), key=lambda number: (sizes[number], number))
        bins[smallest].append(name)
        sizes[smallest] += len(groups[name])
    return {f"coarse-{number:03d}": tuple(sorted(names)) for number, names in enumerate(bins)}


def members(groups: Groups, names: Sequence[str]) -> tuple[int, ...]:
    """The places of all segments of the named groups, in order."""
    return tuple(sorted(place for name in names for place in groups[name]))


def handed_down(effects: Tensor, groups: Groups, segments: int) -> Tensor:
    """Scores of segments that sum to the effect of their group: effect / number of its segments.

    Args:
        effects: float64 [..., groups], in the order of `groups`.
        groups: of some or all of the segments.
        segments: how many there are.

    Returns: float64 [..., segments], 0 for a segment in none of the groups.
    """
    scores = torch.zeros((*effects.shape[:-1], segments), dtype=effects.dtype)
    for number, places in enumerate(groups.values()):
        scores[..., list(places)] = effects[..., number : number + 1] / len(places)
    return scores
