"""Coalitions of catalogues."""

import pytest

from tda_dagster.evaluation.coalitions import (
    catalogues_by,
    coalitions,
    tracks_of,
    unequal_catalogues,
)

SIZES = {"a": 30, "b": 20, "c": 25, "d": 40, "e": 10, "f": 15, "g": 35, "h": 25}


def test_all_parties_and_all_but_each_come_first_then_distinct_halves() -> None:
    formed = coalitions(SIZES, 64, seed=6)
    everybody = tuple(sorted(SIZES))
    assert formed[0] == everybody
    assert formed[1:9] == [tuple(p for p in everybody if p != absent) for absent in everybody]
    assert len(formed) == len(set(formed)) == 73
    half = sum(SIZES.values()) / 2
    assert all(sum(SIZES[party] for party in coalition) >= half for coalition in formed)


def test_a_longer_list_begins_as_a_shorter_one_and_another_seed_gives_another_list() -> None:
    assert coalitions(SIZES, 40, seed=6)[:29] == coalitions(SIZES, 20, seed=6)
    assert coalitions(SIZES, 20, seed=7)[9:] != coalitions(SIZES, 20, seed=6)[9:]


def test_few_parties_have_few_coalitions() -> None:
    formed = coalitions({"a": 1, "b": 1, "c": 1}, 64, seed=0)
    # All; three pairs; no single party holds half of the segments.
    assert sorted(formed) == [("a", "b"), ("a", "b", "c"), ("a", "c"), ("b", "c")]


def test_unequal_catalogues_share_out_every_track_once_from_sixty_down_to_one() -> None:
    kinds = {f"track-{n:03d}": f"kind-{n % 7}" for n in range(160)}
    catalogues = unequal_catalogues(kinds, seed=3)
    sizes = sorted((len(tracks) for tracks in catalogues.values()), reverse=True)
    assert sorted(t for tracks in catalogues.values() for t in tracks) == sorted(kinds)
    assert len(sizes) == 10
    assert 58 <= sizes[0] <= 70
    assert sizes[-1] == 1
    assert unequal_catalogues(kinds, seed=3) == catalogues
    assert unequal_catalogues(kinds, seed=4) != catalogues


def test_tracks_of_one_kind_stay_together() -> None:
    kinds = {f"track-{n:03d}": f"kind-{n % 8}" for n in range(160)}
    catalogues = unequal_catalogues(kinds, seed=0)
    owners = {track: party for party, tracks in catalogues.items() for track in tracks}
    pairs = {(kinds[track], owners[track]) for track in kinds}
    # Eight kinds cut into ten catalogues meet in at most 8 + 10 - 1 pairs.
    assert len(pairs) <= 17


def test_too_few_tracks_are_refused() -> None:
    with pytest.raises(ValueError, match="9 tracks are too few for 10 catalogues"):
        unequal_catalogues({f"t{n}": "k" for n in range(9)}, seed=0)


def test_the_tracks_of_a_coalition() -> None:
    catalogues = catalogues_by({"t1": "b", "t2": "a", "t3": "b"})
    assert catalogues == {"a": ("t2",), "b": ("t1", "t3")}
    assert tracks_of(("a", "b"), catalogues) == ("t1", "t2", "t3")
