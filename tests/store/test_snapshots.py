import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tda_dagster.store import ArtifactStore, CorruptRecord, Recipe, Ref, StoreError, digest_of
from tda_dagster.store.snapshots import (
    add_snapshot,
    list_snapshots,
    open_snapshot,
    open_view,
    read_snapshot,
    remove_snapshot,
)
from tda_dagster.store.verification import verify_needed

Make = Callable[..., Ref]


@pytest.fixture
def make(store: ArtifactStore, recipe: Callable[..., Recipe], writes: Any) -> Make:
    def make(asset: str, text: str, **fields: Any) -> Ref:
        return store.materialize(recipe(asset, **fields), writes(file=text)).ref

    return make


def test_a_snapshot_shows_the_store_as_it_was(store: ArtifactStore, make: Make) -> None:
    index = make("dataset/index", "one")
    scores = make("scores", "scores of one", partition="q", inputs={"index": index.digest})
    add_snapshot(store, "first", "before the change")
    later = make("dataset/index", "two", config={"rate": 2})
    make("scores", "scores of two", partition="q", inputs={"index": later.digest})
    make("scores", "another", partition="r", inputs={"index": later.digest})
    view = open_snapshot(store, "first")
    assert view.heads() == [index, scores]
    assert view.head("dataset/index") == index
    assert view.head("dataset/index", "x") is None
    assert view.partitions("scores") == ["q"]
    assert store.partitions("scores") == ["q", "r"]
    assert list(view.refs()) == [index, scores]
    assert view.artifact(scores.digest).read_bytes("file") == b"scores of one"
    assert open_view(store, "first").heads() == view.heads()
    assert open_view(store, "live") is store


def test_the_refs_of_a_snapshot_are_what_it_pins_and_what_that_was_made_from(
    store: ArtifactStore, make: Make
) -> None:
    old = make("dataset/index", "old")
    make("unrelated", "x", config={"n": 1})
    scores = make("scores", "scores", inputs={"index": old.digest})
    new = make("dataset/index", "new", config={})  # scores are stale now
    unrelated = make("unrelated", "y", config={"n": 2})
    add_snapshot(store, "now")
    view = open_snapshot(store, "now")
    assert view.heads() == [new, scores, unrelated]
    assert set(view.refs()) == {old, new, scores, unrelated}


def test_snapshots_are_listed_by_age_with_their_notes(store: ArtifactStore, make: Make) -> None:
    make("a", "x")
    for name in ("second-comes-first", "b"):
        add_snapshot(store, name, f"note of {name}")
    assert [(s.name, s.note) for s in list_snapshots(store)] == [
        ("second-comes-first", "note of second-comes-first"),
        ("b", "note of b"),
    ]


def test_a_name_is_given_once(store: ArtifactStore, ground: Any, make: Make) -> None:
    make("a", "x")
    first = add_snapshot(store, "v1")
    make("a", "y", config={})
    with pytest.raises(StoreError, match="v1"):
        add_snapshot(ground.open(), "v1")
    assert read_snapshot(store, "v1") == first
    remove_snapshot(store, "v1")
    assert add_snapshot(store, "v1").pins != first.pins


def test_of_many_who_take_a_name_at_once_one_gets_it(ground: Any, make: Make) -> None:
    make("a", "x")
    got = []

    def add(note: str) -> None:
        try:
            got.append(add_snapshot(ground.open(), "v1", note))
        except StoreError:
            return

    threads = [threading.Thread(target=add, args=[f"{n}"]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list_snapshots(ground.open()) == got
    assert len(got) == 1


@pytest.mark.parametrize("name", ["", "live", "../up", "a/b", ".hidden", "ä", "x" * 101])
def test_what_is_no_name_is_refused(store: ArtifactStore, make: Make, name: str) -> None:
    make("a", "x")
    with pytest.raises(StoreError, match="a name is"):
        add_snapshot(store, name)


def test_there_must_be_something_to_pin(store: ArtifactStore) -> None:
    with pytest.raises(StoreError, match="nothing is live"):
        add_snapshot(store, "v1")


def test_an_unknown_snapshot_is_answered_with_those_there_are(
    store: ArtifactStore, make: Make
) -> None:
    make("a", "x")
    add_snapshot(store, "v1")
    for ask in (read_snapshot, open_snapshot, remove_snapshot):
        with pytest.raises(StoreError, match=r"'v2'.*v1"):
            ask(store, "v2")


def test_a_damaged_snapshot_is_named(store: ArtifactStore, ground: Any, make: Make) -> None:
    make("a", "x")
    add_snapshot(store, "v1")
    text = ground.files()["snapshots/v1.json"]
    for damaged in (b"{", b"[]", b"{}", text.replace(b'"v1"', b'"v2"')):
        ground.overwrite("snapshots/v1.json", damaged)
        with pytest.raises(CorruptRecord, match=r"snapshots/v1\.json"):
            list_snapshots(store)
        (problem,) = verify_needed(store)
        assert problem.path.endswith("snapshots/v1.json")


def test_a_snapshot_is_small_canonical_json(store: ArtifactStore, ground: Any, make: Make) -> None:
    ref = make("a", "x", partition="p")
    add_snapshot(store, "v1", "né")
    data = ground.files()["snapshots/v1.json"]
    record = json.loads(data)
    assert record["pins"] == [
        {"asset": "a", "partition": "p", "recipe": ref.recipe.key, "digest": ref.digest}
    ]
    compact = json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert data == compact.encode()


def test_what_a_snapshot_holds_is_verified_and_said_to_be_its(
    store: ArtifactStore, ground: Any, make: Make
) -> None:
    old = make("a", "old")
    add_snapshot(store, "v1")
    add_snapshot(store, "v2")
    make("a", "new", config={})
    assert verify_needed(store) == []
    ground.damage(digest_of(b"old"))
    assert store.verify() == []  # nothing live needs it
    (problem,) = verify_needed(store)
    assert (problem.kind, problem.asset, problem.entry) == ("corrupt", "a", "file")
    assert problem.pinned_by == ("v1", "v2")
    ground.damage(digest_of(b"new"))
    assert {p.pinned_by for p in verify_needed(store)} == {(), ("v1", "v2")}
    ground.remove(f"refs/a/_/{old.recipe.key}.json")
    missing = [p for p in verify_needed(ground.open()) if p.kind == "missing"]
    assert [p.pinned_by for p in missing] == [("v1",), ("v2",)]
    with pytest.raises(StoreError, match=r"'v1'.*has gone"):
        open_snapshot(ground.open(), "v1")


def test_a_ref_that_now_stands_for_other_bytes_is_not_what_was_pinned(
    store: ArtifactStore, ground: Any, make: Make, recipe: Any, writes: Any
) -> None:
    ref = make("a", "first bytes")
    add_snapshot(store, "v1")
    for digest in (ref.digest, digest_of(b"first bytes")):
        ground.remove(f"cas/sha256/{digest[:2]}/{digest}")
    store.materialize(recipe("a"), writes(file="other bytes"))
    (problem,) = verify_needed(ground.open())
    assert "other bytes" in problem.detail
    with pytest.raises(StoreError, match="made again"):
        open_snapshot(ground.open(), "v1")


def test_verifying_tells_how_far_it_is(store: ArtifactStore, make: Make) -> None:
    make("a", "x" * 1000)
    steps: list[tuple[int, int]] = []
    verify_needed(store, lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1] > 1000
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
