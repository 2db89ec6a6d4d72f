import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tda_dagster.store import ArtifactStore, Recipe, Ref, StoreError, artifacts, digest_of
from tda_dagster.store import collection as collecting
from tda_dagster.store.collection import NOBODY, Tally, collect, plan_collection
from tda_dagster.store.snapshots import add_snapshot, open_snapshot, remove_snapshot
from tda_dagster.store.verification import verify_needed

Make = Callable[..., Ref]
NOW = timedelta(0)
"""A grace period that spares nothing."""


@pytest.fixture
def make(store: ArtifactStore, recipe: Callable[..., Recipe], writes: Any) -> Make:
    def make(asset: str, text: str, head: bool = True, **fields: Any) -> Ref:
        return store.materialize(recipe(asset, **fields), writes(file=text), head=head).ref

    return make


@pytest.fixture
def chain(make: Make) -> dict[str, Ref]:
    """index ─► latents [shards] ─► scores; made twice, with other settings, and the second is
    live."""
    made: dict[str, Ref] = {}
    for era, rate in (("old", 1), ("new", 2)):
        config = {"rate": rate}
        index = make("dataset/index", f"{era} index", config=config)
        shard = make(
            "dataset/latents/shard",
            f"{era} shard",
            head=False,
            partition="train-0",
            inputs={"index": index.digest},
        )
        latents = make("dataset/latents", f"{era} latents", inputs={"index": index.digest})
        scores = make("scores", f"{era} scores", inputs={"latents": latents.digest})
        made |= {f"{era} {ref.recipe.asset}": ref for ref in (index, shard, latents, scores)}
    return made


def keys(refs: Any) -> set[str]:
    return {ref.recipe.key for ref in refs}


def test_what_nothing_reaches_goes_and_all_else_stays(
    store: ArtifactStore, ground: Any, chain: dict[str, Ref]
) -> None:
    before = ground.files()
    plan = plan_collection(store, grace=NOW)
    assert ground.files() == before  # planning writes nothing
    old = {name: ref for name, ref in chain.items() if name.startswith("old")}
    assert keys(ref for _, ref in plan.refs) == keys(old.values())
    assert set(plan.by_asset) == {
        "dataset/index", "dataset/latents", "dataset/latents/shard", "scores"
    }  # fmt: skip
    collected = collect(store, plan)
    after = ground.files()
    assert (collected.refs, collected.blobs) == (4, 8)
    assert collected.size_bytes == plan.size_bytes
    assert collected.size_bytes == sum(
        len(data) for name, data in before.items() if name.startswith("cas/") and name not in after
    )
    assert keys(ground.open().refs()) == keys(chain.values()) - keys(old.values())
    assert verify_needed(ground.open()) == []
    again = plan_collection(ground.open(), grace=NOW)
    assert (again.refs, again.blobs) == ((), ())


def test_what_live_things_were_made_from_stays_though_no_longer_live(
    store: ArtifactStore, ground: Any, make: Make
) -> None:
    index = make("dataset/index", "old", config={"rate": 1})
    make("scores", "scores", inputs={"index": index.digest})
    make("dataset/index", "new", config={"rate": 2})
    assert plan_collection(store, grace=NOW).refs == ()


def test_shards_stay_while_all_their_inputs_are_live(store: ArtifactStore, make: Make) -> None:
    index = make("dataset/index", "index")
    raw = store.put_bytes(b"one file of the index")
    file = digest_of(b"index")  # an input may be a file of a live artifact
    shard = {"asset": "scores/shard", "head": False}
    kept = [
        make(**shard, text="a", partition="0", inputs={"index": index.digest}),
        make(**shard, text="b", partition="0", config={"x": 1}, inputs={"file": file}),
    ]
    gone = make(**shard, text="c", partition="1", inputs={"index": index.digest, "file": raw})
    plan = plan_collection(store, grace=NOW)
    assert [ref for _, ref in plan.refs] == [gone]
    collect(store, plan)
    assert keys(kept) <= keys(store.refs())
    assert all(store.artifact(ref.digest).read_bytes("file") for ref in kept)


def test_a_shard_stays_while_a_live_artifact_holds_its_files(
    store: ArtifactStore, recipe: Callable[..., Recipe], writes: Any, make: Make
) -> None:
    """It may be asked for again as long as what it was made from is outside the store."""
    outside = {"audio": digest_of(b"a file of the user's")}
    kept = make("latents/shard", "a", head=False, inputs=outside)
    gone = make("latents/shard", "b", head=False, partition="1", inputs=outside)
    store.materialize(recipe("latents"), writes(a="a", c="c"))
    assert [ref for _, ref in plan_collection(store, grace=NOW).refs] == [gone]
    collect(store, plan_collection(store, grace=NOW))
    assert store.find(kept.recipe) == kept
    assert verify_needed(store) == []


def test_a_snapshot_keeps_what_it_pins_until_it_is_removed(
    store: ArtifactStore, ground: Any, make: Make
) -> None:
    index = make("dataset/index", "old", config={"rate": 1})
    scores = make("scores", "old scores", inputs={"index": index.digest})
    make("scores/shard", "old shard", head=False, inputs={"index": index.digest})
    add_snapshot(store, "v1")
    new = make("dataset/index", "new", config={"rate": 2})
    make("scores", "new scores", inputs={"index": new.digest})
    plan = plan_collection(store, grace=NOW)
    assert [ref.recipe.asset for _, ref in plan.refs] == ["scores/shard"]  # no longer of use
    collect(store, plan)
    assert verify_needed(ground.open()) == []
    view = open_snapshot(ground.open(), "v1")
    assert view.heads() == [index, scores]
    assert view.artifact(scores.digest).read_bytes("file") == b"old scores"
    remove_snapshot(store, "v1")
    collect(store, plan_collection(store, grace=NOW))
    assert keys(store.refs()) == keys(store.heads())


def test_what_artifacts_share_stays_while_one_of_them_does(
    store: ArtifactStore, ground: Any, recipe: Any, writes: Any
) -> None:
    store.materialize(recipe(), writes(shared="same", own="old"))
    store.materialize(recipe(config={}), writes(shared="same", own="new"))
    plan = plan_collection(store, grace=NOW)
    assert len(plan.blobs) == 2  # its list of files and its own file
    collect(store, plan)
    assert verify_needed(ground.open()) == []


def test_uploads_that_never_came_to_a_ref_are_counted_apart(store: ArtifactStore) -> None:
    store.put_bytes(b"12345")
    plan = plan_collection(store, grace=NOW)
    assert plan.by_asset == {NOBODY: Tally(refs=0, blobs=1, size_bytes=5)}


def test_what_is_young_stays_with_all_that_it_needs(
    store: ArtifactStore, ground: Any, chain: dict[str, Ref]
) -> None:
    store.put_bytes(b"an upload under way")
    plan = plan_collection(store)
    assert (plan.refs, plan.blobs, plan.young_blobs) == ((), (), 1)
    if "://" not in ground.root:
        _age(ground, "")
        young = chain["old scores"]
        name = f"refs/scores/_/{young.recipe.key}.json"
        os.utime(Path(ground.root, name))
        plan = plan_collection(ground.open())
        gone = keys(ref for _, ref in plan.refs)
        # Its ancestors are what it was made from; its shard's inputs are live through it.
        assert not gone
        assert [blob.name for blob in plan.blobs] == [_blob(b"an upload under way")]


def _blob(data: bytes) -> str:
    digest = digest_of(data)
    return f"cas/sha256/{digest[:2]}/{digest}"


def _age(ground: Any, folder: str) -> None:
    """Make every file look two days old."""
    past = time.time() - 2 * 86400
    for name in ground.files(folder):
        os.utime(Path(ground.root, name), (past, past))


def test_nothing_goes_while_it_is_unknown_what_is_needed(
    store: ArtifactStore, ground: Any, chain: dict[str, Ref]
) -> None:
    add_snapshot(store, "v1")
    files = ground.files()
    scores = chain["new scores"]
    for name in (
        "heads/scores/_.json",
        f"refs/scores/_/{scores.recipe.key}.json",
        "snapshots/v1.json",
        f"cas/sha256/{scores.digest[:2]}/{scores.digest}",
    ):
        ground.overwrite(name, b"nonsense")
        with pytest.raises(StoreError, match="nothing was collected"):
            plan_collection(ground.open(), grace=NOW)
        ground.overwrite(name, files[name])
    assert plan_collection(ground.open(), grace=NOW).refs
    ground.remove(f"cas/sha256/{scores.digest[:2]}/{scores.digest}")
    with pytest.raises(StoreError, match="nothing was collected"):
        plan_collection(ground.open(), grace=NOW)


def test_an_interrupted_collection_leaves_a_sound_store_and_is_finished_by_the_next(
    store: ArtifactStore, ground: Any, chain: dict[str, Ref]
) -> None:
    plan = plan_collection(store, grace=NOW)
    files = ground.files()
    steps = len(plan.refs) + len(plan.blobs)
    for stop in range(1, steps + 1):

        def crash(done: int, total: int, stop: int = stop) -> None:
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            collect(ground.open(), plan, crash)
        left = ground.open()
        assert verify_needed(left) == []
        for ref in left.refs():  # each is whole, and so is what it was made from
            assert left.artifact(ref.digest).read_bytes("file")
            assert all(edge.source for edge in left.ancestry(ref))
        collect(left, plan_collection(left, grace=NOW))
        assert keys(ground.open().refs()) == keys(left.heads()) | {
            chain["new dataset/latents/shard"].recipe.key
        }
        for name in files.keys() - ground.files().keys():
            put(ground, name, files[name])


def put(ground: Any, name: str, data: bytes) -> None:
    path = f"{ground.fs._strip_protocol(ground.root)}/{name}"
    ground.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    ground.fs.pipe_file(path, data)


def test_what_came_into_use_after_the_plan_is_spared(
    store: ArtifactStore, ground: Any, chain: dict[str, Ref], make: Make
) -> None:
    plan = plan_collection(store, grace=NOW)
    ground.open().set_head(chain["old scores"])  # the settings were changed back
    collected = collect(store, plan)
    assert verify_needed(ground.open()) == []
    assert ground.open().head("scores") == chain["old scores"]
    assert collected.refs == 0  # its shard's inputs are live again, too
    # What it was made from had to stay too.
    for name in ("old dataset/latents", "old dataset/index"):
        digest = chain[name].digest
        assert store.artifact(digest).read_bytes("file")


def test_a_ref_that_is_made_live_while_it_goes_is_put_back(
    store: ArtifactStore,
    ground: Any,
    chain: dict[str, Ref],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_collection(store, grace=NOW)
    look = collecting._wanted_back

    def somebody_else_comes_first(opened: ArtifactStore, removed: list[Ref]) -> list[Ref]:
        ground.open().set_head(chain["old scores"])
        return look(opened, removed)

    monkeypatch.setattr(collecting, "_wanted_back", somebody_else_comes_first)
    collected = collect(store, plan)
    assert collected.refs == 1  # the shard
    assert ground.open().head("scores") == chain["old scores"]
    assert len(ground.open().ancestry(chain["old scores"])) == 2
    assert verify_needed(ground.open()) == []


@pytest.mark.parametrize("when", ["before", "during"])
def test_what_work_under_way_has_found_is_spared(
    store: ArtifactStore,
    ground: Any,
    recipe: Callable[..., Recipe],
    writes: Any,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    """A run finds an old shard that nothing live needs, and needs it still while it works on."""
    monkeypatch.setattr(artifacts, "RENEW_AFTER", timedelta(0))
    gone = {"latents": digest_of(b"of other settings")}
    shard, grace = recipe("scores/shard", inputs=gone), timedelta(seconds=1)
    made = store.materialize(shard, writes(file="shard"), head=False)
    store.materialize(recipe("live"), writes(file="other"))
    time.sleep(grace.total_seconds() + 1.1)  # S3 counts whole seconds
    found = []

    def find() -> None:
        again = ground.open().materialize(shard, writes(file="again"), head=False)
        found.append(again.artifact.path("file"))

    if when == "before":
        find()
    plan = plan_collection(ground.open(), grace=grace)
    assert [ref for _, ref in plan.refs] == ([] if when == "before" else [made.ref])
    if when == "during":
        find()
    collect(ground.open(), plan)
    assert [path.read_text() for path in found] == ["shard"]
    assert store.find(shard) == made.ref
    assert ground.open().artifact(made.ref.digest).read_bytes("file") == b"shard"


def test_writers_at_work_lose_nothing(
    ground: Any, recipe: Callable[..., Recipe], writes: Any
) -> None:
    """Two writers make artifacts one upon the other while garbage of the same assets, older than
    the grace period, is collected again and again."""
    grace = timedelta(seconds=1)
    stop, errors = threading.Event(), []

    def work(worker: int) -> None:
        store, number = ground.open(), 0
        try:
            while not stop.is_set():
                number += 1
                text = f"{worker} {number}"
                a = store.materialize(
                    recipe("a", partition=f"{worker}", config={"n": number}), writes(f=text)
                )
                store.materialize(
                    recipe("b", partition=f"{worker}", inputs={"a": a.ref.digest}),
                    writes(f=f"b {text}"),
                )
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[n]) for n in range(2)]
    for thread in threads:
        thread.start()
    removed, end = 0, time.monotonic() + 3
    while time.monotonic() < end and not errors:
        store = ground.open()
        removed += collect(store, plan_collection(store, grace=grace)).refs
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert removed > 0
    assert verify_needed(ground.open()) == []
    assert {(r.recipe.asset, r.recipe.partition) for r in ground.open().heads()} == {
        (asset, f"{worker}") for asset in "ab" for worker in range(2)
    }
