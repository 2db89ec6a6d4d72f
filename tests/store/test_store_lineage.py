from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tda_dagster.store import ArtifactStore, Edge, Recipe, Ref, StoreError, digest_of

MakeRecipe = Callable[..., Recipe]
Writes = Callable[..., Any]


class Chain:
    """audio ─► index ─► latents ─► scores [q], index ─► scores [q], and an audio elsewhere."""

    def __init__(self, store: ArtifactStore, recipe: MakeRecipe, writes: Writes) -> None:
        self.inside = store.put_bytes(b"stored audio")
        self.outside = digest_of(b"audio elsewhere")

        def make(asset: str, inputs: dict[str, str], partition: str = "") -> Ref:
            made = recipe(asset, inputs=inputs, partition=partition)
            return store.materialize(made, writes(table=asset, shared="same")).ref

        self.index = make("dataset/index", {"a": self.inside, "b": self.outside})
        self.latents = make("dataset/latents", {"index": self.index.digest})
        inputs = {"latents": self.latents.digest, "index": self.index.digest}
        self.scores = make("attribution/scores", inputs, "q")


@pytest.fixture
def chain(store: ArtifactStore, recipe: MakeRecipe, writes: Writes) -> Chain:
    return Chain(store, recipe, writes)


def test_ancestry_walks_back_to_the_audio(store: ArtifactStore, ground: Any, chain: Chain) -> None:
    expected = [
        Edge(chain.scores, "index", chain.index),
        Edge(chain.scores, "latents", chain.latents),
        Edge(chain.index, "a", None),
        Edge(chain.index, "b", None),
        Edge(chain.latents, "index", chain.index),
    ]
    assert store.ancestry(chain.scores) == expected
    assert ground.open().ancestry(chain.scores) == expected
    assert store.ancestry(chain.index) == expected[2:4]


def test_refs_made_by_others_are_seen(
    store: ArtifactStore, ground: Any, chain: Chain, recipe: MakeRecipe, writes: Writes
) -> None:
    assert len(list(store.refs())) == 3
    other = ground.open().materialize(
        recipe("base/fisher", inputs={"latents": chain.latents.digest}), writes(f="x")
    )
    assert store.ancestry(other.ref)[0] == Edge(other.ref, "latents", chain.latents)


def test_of_several_makers_of_the_same_bytes_the_same_partition_comes_first_then_the_oldest(
    store: ArtifactStore, recipe: MakeRecipe, writes: Writes
) -> None:
    made = {p: store.materialize(recipe("a", partition=p), writes(f="x")).ref for p in "zyx"}
    digest = made["x"].digest

    def source(partition: str) -> Ref | None:
        uses = recipe("b", partition=partition, inputs={"a": digest})
        ref = store.materialize(uses, writes(f="x")).ref
        return store.ancestry(ref)[0].source

    assert source("y") == made["y"]
    assert source("other") == made["z"]


def test_a_sound_store_has_no_problems(store: ArtifactStore, chain: Chain) -> None:
    assert store.verify() == []
    reached = list(store.reachable())
    digests = {blob.digest for blob in reached}
    assert {chain.index.digest, chain.latents.digest, chain.scores.digest} <= digests
    assert chain.inside in digests
    assert chain.outside not in digests
    assert len(reached) == 3 * 3 + 1


def test_verify_names_every_place_that_a_damaged_blob_spoils(
    store: ArtifactStore, ground: Any, chain: Chain
) -> None:
    name = ground.damage(digest_of(b"same"))
    problems = store.verify()
    assert [(p.kind, p.asset, p.partition, p.entry) for p in problems] == [
        ("corrupt", "attribution/scores", "q", "shared"),
        ("corrupt", "dataset/index", "", "shared"),
        ("corrupt", "dataset/latents", "", "shared"),
    ]
    for problem in problems:
        assert problem.path.endswith(name)
        assert name in str(problem)
        assert problem.asset in str(problem)


def test_verify_names_what_is_missing(store: ArtifactStore, ground: Any, chain: Chain) -> None:
    for digest in (digest_of(b"dataset/latents"), chain.scores.digest):
        ground.remove(f"cas/sha256/{digest[:2]}/{digest}")
    ground.damage(chain.inside)
    assert [(p.kind, p.asset, p.entry) for p in store.verify()] == [
        ("missing", "attribution/scores", ""),
        ("missing", "dataset/latents", "table"),
        ("corrupt", "dataset/index", "inputs/a"),
    ]


def test_what_live_things_were_made_from_is_checked_even_if_no_longer_live(
    store: ArtifactStore, ground: Any, chain: Chain, recipe: MakeRecipe, writes: Writes
) -> None:
    store.materialize(recipe(config={"rate": 9}), writes(f="newer index"))
    assert chain.index not in store.heads()
    ground.damage(chain.index.digest)
    assert [(p.asset, p.entry) for p in store.verify()] == [("dataset/index", "")]


def test_what_nothing_live_needs_is_not_checked(
    store: ArtifactStore, ground: Any, recipe: MakeRecipe, writes: Writes
) -> None:
    old = store.materialize(recipe(), writes(f="old")).ref
    store.materialize(recipe(config={}), writes(f="new"))
    ground.damage(old.digest)
    assert store.verify() == []


def test_verify_names_damaged_records(store: ArtifactStore, ground: Any, chain: Chain) -> None:
    ref = f"refs/dataset/index/_/{chain.index.recipe.key}.json"
    ground.overwrite(ref, b"{")
    ground.overwrite("heads/dataset/latents/_.json", b"nonsense")
    ground.remove(f"refs/attribution/scores/q/{chain.scores.recipe.key}.json")
    problems = ground.open().verify()
    assert [problem.kind for problem in problems] == ["corrupt"] * 3
    for problem, name in zip(
        problems,
        ("heads/attribution/scores/q.json", "heads/dataset/latents/_.json", ref),
        strict=True,
    ):
        assert problem.path.endswith(name)
        assert name in str(problem)
    with pytest.raises(StoreError):
        ground.open().reachable().__next__()


def test_a_store_can_be_moved(ground: Any, chain: Chain, tmp_path: Path) -> None:
    for name, data in ground.files().items():
        (tmp_path / "moved" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "moved" / name).write_bytes(data)
    moved = ArtifactStore(tmp_path / "moved")
    assert moved.verify() == []
    assert moved.head("attribution/scores", "q") == chain.scores
    assert len(moved.ancestry(chain.scores)) == 5
