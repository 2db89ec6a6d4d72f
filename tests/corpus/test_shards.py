"""Shards of a dataset, as they are cut and as tracks come and go."""

import polars as pl
import pytest

from tda_dagster.corpus.shards import even_shards, shards, stable_shards

SIZE = 8
Content = dict[str, tuple[str, ...]]


def segments(counts: dict[str, int]) -> pl.DataFrame:
    """Tracks by their number of segments, as `dataset/index` has them; every fifth is held out."""
    rows = [
        (
            f"{track}:{number:04d}",
            track,
            number,
            "heldout" if int(track.removeprefix("t")) % 5 == 0 else "train",
        )
        for track, count in sorted(counts.items())
        for number in range(count)
    ]
    columns = ["segment_id", "track_id", "segment_index", "split"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def content(counts: dict[str, int], size: int = SIZE) -> Content:
    table = segments(counts)
    return {name: tuple(rows["segment_id"]) for name, rows in stable_shards(table, size)}


TRACKS = {f"t{number}": 1 + number % 4 for number in range(100)}


@pytest.mark.parametrize("cut", [even_shards, stable_shards])
@pytest.mark.parametrize("size", [1, 3, 8, 1000])
def test_every_segment_is_in_one_shard_of_its_split(cut: object, size: int) -> None:
    table = segments(TRACKS)
    found = list(cut(table, size))  # type: ignore[operator]
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)
    assert sorted(s for _, rows in found for s in rows["segment_id"]) == sorted(table["segment_id"])
    for name, rows in found:
        assert 0 < rows.height <= size
        assert set(rows["split"]) == {name.split("-")[0]}
        assert rows.columns == table.columns


def test_the_reference_study_is_cut_evenly_and_a_manifest_stably() -> None:
    table = segments(TRACKS)
    for manifest, cut in ((None, even_shards), ("music.csv", stable_shards)):
        found, wanted = list(shards(table, SIZE, manifest)), list(cut(table, SIZE))
        assert [name for name, _ in found] == [name for name, _ in wanted]


def test_sorted_names_keep_the_order_and_it_does_not_depend_on_the_size() -> None:
    def order(size: int) -> list[str]:
        return [s for _, ids in sorted(content(TRACKS, size).items()) for s in ids]

    train = [s for s in order(1000) if int(s[1:].split(":")[0]) % 5]
    for size in (1, 3, 8, 50):
        assert [s for s in order(size) if int(s[1:].split(":")[0]) % 5] == train


@pytest.mark.parametrize("track", sorted(TRACKS))
def test_a_track_that_goes_changes_no_shard_but_its_own(track: str) -> None:
    """At most that shard is gone or smaller, or has become one with its neighbours."""
    before = content(TRACKS)
    after = content({t: n for t, n in TRACKS.items() if t != track})
    lost = {ids for name, ids in before.items() if after.get(name) != ids}
    new = {ids for name, ids in after.items() if before.get(name) != ids}
    assert len(new) <= 1
    moved = {segment for ids in lost for segment in ids}
    own = {segment for segment in moved if segment.startswith(f"{track}:")}
    assert {segment for ids in new for segment in ids} == moved - own
    assert len(own) == TRACKS[track]
    assert len(moved - own) <= SIZE


def test_the_place_of_a_track_is_that_of_its_id_alone() -> None:
    few = {t: n for t, n in TRACKS.items() if int(t[1:]) < 60}
    order = [s for _, ids in sorted(content(few).items()) for s in ids]
    within = [s for _, ids in sorted(content(TRACKS).items()) for s in ids if s in set(order)]
    assert order == within


def test_a_track_too_long_for_a_shard_has_its_own() -> None:
    counts = {"t1": 20, "t2": 2, "t3": 2}
    found = content(counts)
    own = [ids for ids in found.values() if any(s.startswith("t1:") for s in ids)]
    assert [len(ids) for ids in own] == [8, 8, 4]
    assert {s.split(":")[0] for ids in own for s in ids} == {"t1"}


def test_there_may_be_nothing_to_cut() -> None:
    assert content({}) == {}
    assert list(content({"t1": 1}).values()) == [("t1:0000",)]
