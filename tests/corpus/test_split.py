"""The held-out set: works stay together, nothing but ids and the seed decides."""

import random
from typing import cast

import pytest

from tda_dagster.corpus import ManifestRow, ManifestRows
from tda_dagster.corpus.rejects import Reject, RejectReason
from tda_dagster.corpus.split import (
    NothingToTrainOn,
    assign_splits,
    check_manifest,
    check_training,
)


def row(track_id: str, version_of: str | None = None, split: str | None = None) -> ManifestRow:
    return cast(ManifestRow, {"track_id": track_id, "version_of": version_of, "split": split})


def heldout(rows: list[ManifestRow], fraction: float = 0.2, seed: int = 0) -> set[str]:
    splits = assign_splits(rows, [row["track_id"] for row in rows], fraction, seed)
    assert set(splits) == {row["track_id"] for row in rows}
    assert set(splits.values()) <= {"train", "heldout"}
    return {track_id for track_id, split in splits.items() if split == "heldout"}


WORKS = [row(f"t{number}") for number in range(100)]


def test_the_fraction_is_met_exactly_and_the_seed_matters() -> None:
    assert len(heldout(WORKS, 0.2)) == 20
    assert heldout(WORKS, 0.2, seed=1) == heldout(WORKS, 0.2, seed=1)
    assert heldout(WORKS, 0.2, seed=1) != heldout(WORKS, 0.2, seed=2)
    assert heldout(WORKS, 0.1) < heldout(WORKS, 0.2)


def test_row_order_does_not_matter() -> None:
    rows = [row(f"t{n}", f"t{n // 3}" if n % 3 else None) for n in range(100)]
    shuffled = random.Random(0).sample(rows, len(rows))
    assert heldout(rows) == heldout(shuffled)


@pytest.mark.parametrize(
    ("works", "fraction", "expected"),
    [(4, 0.01, 0), (5, 0.01, 1), (5, 0.0, 0), (3, 0.5, 2), (2, 0.99, 1), (1, 0.99, 0), (0, 0.5, 0)],
)
def test_small_datasets(works: int, fraction: float, expected: int) -> None:
    assert len(heldout(WORKS[:works], fraction)) == expected


def test_versions_stay_with_their_work() -> None:
    # Chains, rings, and two versions of an original that the dataset does not have.
    rows = [
        version
        for n in range(20)
        for version in (
            row(f"{n}a"),
            row(f"{n}b", f"{n}a"),
            row(f"{n}c", f"{n}b"),
            row(f"{n}d", f"{n}e"),
            row(f"{n}e", f"{n}d"),
            row(f"{n}f", f"missing{n}"),
            row(f"{n}g", f"missing{n}"),
        )
    ]
    held = heldout(rows, 0.5)
    assert len(held) > 20
    for n in range(20):
        for work in ("abc", "de", "fg"):
            assert len({f"{n}{version}" in held for version in work}) == 1


def test_only_kept_tracks_get_a_split() -> None:
    rows = [row("a"), row("b", "a"), row("c")]
    assert set(assign_splits(rows, ["b"], 0.0, 0)) == {"b"}


def test_the_manifest_decides_if_it_says_anything(caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        row("a", split="heldout"),
        row("a2", "a"),
        row("b", split="train"),
        row("b2", "b"),
        row("c"),
        row("d", split="heldout"),
        row("d2", "d", split="train"),
        row("d3", "d"),
    ]
    assert heldout(rows, 0.9) == {"a", "a2", "d"}
    assert "versions of one work on both sides: 1 works, first 'd'" in caplog.text


def numbered(rows: list[ManifestRow], rejects: list[Reject] | None = None) -> ManifestRows:
    return ManifestRows("m.csv", list(enumerate(rows, start=2)), rejects or [])


def test_a_manifest_that_holds_everything_out_is_an_error() -> None:
    for rows in (
        [row("a", split="heldout"), row("b", split="heldout")],
        [row("a", split="heldout"), row("b", "a")],  # a version follows its work
    ):
        with pytest.raises(NothingToTrainOn, match=r"m\.csv: .* column split, all of the 2 tracks"):
            check_manifest(numbered(rows))


def test_a_manifest_that_trains_on_something_is_none() -> None:
    check_manifest(numbered([row("a", split="heldout"), row("b")]))
    check_manifest(numbered([row("a"), row("b")]))
    check_manifest(numbered([row("a", split="train")]))
    check_manifest(numbered([]))  # its rejects are told with their reasons elsewhere
    check_training(numbered([]), {})


def test_rejected_and_taken_down_tracks_do_not_count() -> None:
    rows = numbered([row("a", split="heldout"), row("b", split="train")])
    with pytest.raises(NothingToTrainOn, match=r"all of the 1 tracks .*1 of 2 rows say"):
        check_training(rows, assign_splits([r for _, r in rows.rows], ["a"], 0.0, 0))
    bad = [Reject(line, RejectReason.MISSING_FILE, "'b.wav': gone") for line in range(2, 7)]
    with pytest.raises(NothingToTrainOn, match=r"all 2 rows are .*line 2: missing_file: .* 2 more"):
        check_training(rows, {}, bad)
