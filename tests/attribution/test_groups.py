"""Groups of segments: what forms them, how many become few, and how effects become scores."""

import polars as pl
import pytest
import torch

from tda_dagster.attribution.groups import (
    GroupError,
    groups_by,
    handed_down,
    members,
    merged,
)

TRACKS = pl.DataFrame(
    {
        "track_id": ["t0", "t1", "t2"],
        "rightsholder": ["Bo", "Ada", "Bo"],
        "tempo_bpm": [90.0, None, 90.0],
        "extra": ['{"label": "x", "mood": ""}', None, '{"label": "y"}'],
    }
)
SEGMENTS = pl.DataFrame(
    {
        "segment_id": ["t0:0", "t0:1", "t1:0", "t2:0", "t3:0"],
        "track_id": ["t0", "t0", "t1", "t2", "held out"],
    }
)
ORDER = ("t2:0", "t0:0", "t1:0", "t0:1")


def test_segments_are_grouped_by_a_column_of_their_track() -> None:
    found = groups_by("rightsholder", TRACKS, SEGMENTS, ORDER)
    assert found == {"Ada": (2,), "Bo": (0, 1, 3)}
    assert list(found) == ["Ada", "Bo"]


def test_numbers_and_missing_values_are_groups_too() -> None:
    assert groups_by("tempo_bpm", TRACKS, SEGMENTS, ORDER) == {"": (2,), "90.0": (0, 1, 3)}


def test_the_other_columns_of_a_manifest_are_columns() -> None:
    found = groups_by("label", TRACKS, SEGMENTS, ORDER)
    assert found == {"": (2,), "x": (1, 3), "y": (0,)}


def test_an_unknown_column_is_named_with_those_there_are() -> None:
    with pytest.raises(
        GroupError,
        match=r"^group: 'owner' is not a column.*: track_id, rightsholder, tempo_bpm, label, mood$",
    ):
        groups_by("owner", TRACKS, SEGMENTS, ORDER)


def test_merged_groups_are_balanced_and_depend_on_names_and_sizes_alone() -> None:
    sizes = {"a": 9, "b": 5, "c": 4, "d": 4, "e": 3, "f": 1}
    places = iter(range(sum(sizes.values())))
    groups = {name: tuple(next(places) for _ in range(size)) for name, size in sizes.items()}
    coarse = merged(groups, 3)
    assert coarse == merged(dict(reversed(groups.items())), 3)
    assert sorted(name for names in coarse.values() for name in names) == sorted(groups)
    assert sorted(len(members(groups, names)) for names in coarse.values()) == [8, 9, 9]
    assert merged(groups, 99).keys() == {f"coarse-{number:03d}" for number in range(6)}


def test_scores_sum_to_the_effect_of_their_group() -> None:
    effects = torch.tensor([[6.0, -1.0], [0.0, 3.0]], dtype=torch.float64)
    scores = handed_down(effects, {"Ada": (2,), "Bo": (0, 1, 4)}, 5)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores[:, 2], effects[:, 0])
    torch.testing.assert_close(scores[:, [0, 1, 4]].sum(dim=1), effects[:, 1])
    assert scores[1, [0, 1, 4]].tolist() == [1.0, 1.0, 1.0]
    assert scores[:, 3].tolist() == [0.0, 0.0]
