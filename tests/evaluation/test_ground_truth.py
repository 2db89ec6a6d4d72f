"""Sets of left-out tracks: how they are named, and which of them the package knows."""

from pathlib import Path

import polars as pl
import pytest

from tda_dagster.bench import lay_out_study
from tda_dagster.evaluation.counterfactual import removed_tracks
from tda_dagster.evaluation.ground_truth import removals, removed_digest, shipped
from tda_dagster.settings import CounterfactualSettings, Settings, SettingsError, overridden
from tda_dagster.workspace import Workspace

FOUND = {"q0": ("c", "a", "b"), "q1": ("b", "d", "a")}


def test_each_size_is_a_set_of_the_first_tracks() -> None:
    made = removals(FOUND, [1, 3])
    assert made == {
        (query, removed_digest(tracks[:size])): tracks[:size]
        for query, tracks in FOUND.items()
        for size in (1, 3)
    }
    assert len(made) == 4


def test_a_set_is_named_alike_whatever_its_order_and_size_beside_it() -> None:
    (alone,) = removals({"q0": ("b", "a", "c")}, [3])
    assert alone in removals(FOUND, [2, 3])


def test_of_too_few_tracks_all_are_one_set() -> None:
    assert list(removals({"q0": ("a", "b")}, [2, 8]).values()) == [("a", "b")]


def test_one_number_of_tracks_is_kept_as_a_number() -> None:
    """The recipes of what was made when there could be no more than one have it so."""
    one = overridden(Settings(), {"counterfactual.removed_tracks": 8}, "test").counterfactual
    assert one.removed_tracks == (8,)
    assert one.model_dump(mode="json")["removed_tracks"] == 8
    assert one == CounterfactualSettings()
    several = overridden(Settings(), {"counterfactual.removed_tracks": [8, 2, 8]}, "test")
    assert several.counterfactual.removed_tracks == (2, 8)
    assert several.counterfactual.model_dump(mode="json")["removed_tracks"] == [2, 8]
    again = CounterfactualSettings.model_validate(several.counterfactual.model_dump(mode="json"))
    assert again == several.counterfactual


@pytest.mark.parametrize("wrong", [0, [], [2, 0], True, "two", 2.5])
def test_other_numbers_of_tracks_are_refused(wrong: object) -> None:
    with pytest.raises(SettingsError, match="removed_tracks"):
        overridden(Settings(), {"counterfactual.removed_tracks": wrong}, "test")


def test_all_methods_are_trained_for_unless_some_are_named() -> None:
    assert CounterfactualSettings().trains_removal("random")
    some = CounterfactualSettings(removal_methods=("trak",))
    assert some.trains_removal("trak")
    assert not some.trains_removal("random")


def test_what_the_package_has_is_found_beside_another_number_of_tracks(tmp_path: Path) -> None:
    """Sets of eight tracks that were stored are known, those of two are not."""
    lay_out_study(tmp_path)
    settings = Workspace(tmp_path).settings.counterfactual
    assert settings.removed_tracks == (8,)
    truth = shipped("generated")
    assert truth is not None
    known = truth.known_removals()
    assert known
    queries = set(truth.queries.segment_ids[: settings.removal_queries])
    assert {query for query, _ in known} == queries
    stored = truth.tables["removal_losses"]
    assert known == {
        (query, digest) for query, digest in zip(stored["query_id"], stored["removed"], strict=True)
    }


def test_sets_are_taken_from_the_scores() -> None:
    segments = pl.DataFrame({"segment_id": list("abcd"), "track_id": ["t1", "t1", "t2", "t3"]})
    scores = pl.DataFrame(
        {
            "query_id": ["q0"] * 4 + ["q1"] * 4,
            "segment_id": list("abcd") * 2,
            "score": [0.0, 1.0, 5.0, 3.0, 9.0, 1.0, 2.0, 4.0],
        }
    )
    longest = removed_tracks(scores, segments, ["q0", "q1"], 2, threshold_z=100.0)
    assert set(removals(longest, [1, 2]).values()) == {
        ("t2",),
        ("t2", "t3"),
        ("t1",),
        ("t1", "t3"),
    }
