"""What file managers, editors and synchronising programs leave in a store disturbs nothing."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tda_dagster.store import CorruptRecord, Recipe, digest_of
from tda_dagster.store.collection import collect, plan_collection
from tda_dagster.store.snapshots import add_snapshot, list_snapshots
from tda_dagster.store.verification import verify_everything

MakeRecipe = Callable[..., Recipe]
Writes = Callable[..., Any]

FOREIGN = (
    ".DS_Store",
    "._.DS_Store",
    "._{name}",
    ".{name}.swp",
    "{name}~",
    "Thumbs.db",
    "desktop.ini",
    ".nfs000000000001",
    "{name}.bak",
    "Icon\r",
)
COPIES = ("{stem} copy.json", "{stem} (1).json", "{stem} - Copy.json")


def test_files_of_others_beside_ours_are_passed_over(
    ground: Any, recipe: MakeRecipe, writes: Writes
) -> None:
    store = ground.open()
    made = [store.materialize(recipe(partition=p), writes(f=p)).ref for p in ("", "q")]
    add_snapshot(store, "v1")
    for name in ground.files():
        folder, _, own = name.rpartition("/")
        patterns = FOREIGN + (COPIES if folder.startswith(("refs", "snapshots")) else ())
        for pattern in patterns:
            theirs = pattern.format(name=own, stem=own.removesuffix(".json"))
            ground.fs.pipe_file(f"{ground.root}/{folder}/{theirs}", b"\x00\x05\x16\x07 theirs")
    for folder in ("", "cas", "cas/sha256", "refs", "refs/dataset", "heads", "claims", "damaged"):
        for pattern in (".DS_Store", "._x.json"):
            path = f"{ground.root}/{folder}/{pattern}".replace("//.", "/.")
            ground.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            ground.fs.pipe_file(path, b"theirs")
    store = ground.open()
    assert sorted(store.refs(), key=lambda r: r.recipe.partition) == made
    assert store.heads() == made
    assert store.partitions("dataset/index") == ["", "q"]
    assert [snapshot.name for snapshot in list_snapshots(store)] == ["v1"]
    assert verify_everything(store) == []
    assert store.materialize(recipe(), writes(f="")).cached
    plan = plan_collection(store, grace=timedelta(0))
    assert (plan.refs, plan.blobs, plan.kept_refs, plan.kept_blobs) == ((), (), 2, 4)
    collect(store, plan)
    assert store.heads() == made


def test_a_head_of_a_partition_with_a_dot_is_not_taken_for_a_foreign_file(
    ground: Any, recipe: MakeRecipe, writes: Writes
) -> None:
    ref = ground.open().materialize(recipe(partition="._q"), writes(f="x")).ref
    assert ground.open().heads() == [ref]
    assert ground.open().partitions("dataset/index") == ["._q"]


def test_a_damaged_record_of_ours_is_still_told(
    ground: Any, recipe: MakeRecipe, writes: Writes
) -> None:
    ref = ground.open().materialize(recipe(), writes(f="x")).ref
    ground.overwrite(f"refs/dataset/index/_/{ref.recipe.key}.json", b"theirs")
    with pytest.raises(CorruptRecord):
        list(ground.open().refs())
    assert digest_of(b"x") in str(ground.files("cas").keys())
