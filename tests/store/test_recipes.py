import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from tda_dagster.store import ArtifactStore, Recipe, StoreError, canonical_json, digest_of
from tda_dagster.store.refs import path_part

MakeRecipe = Callable[..., Recipe]
Writes = Callable[..., Callable[[Path], None]]
DIGEST = digest_of(b"an input")

HOSTILE = [
    "", "_", "__", ".", "..", "../../escape", "/", "a/b", "a%2Fb", "a|b", "a:b", "a b", "A B",
    "é", "e\u0301", "~", "a~b", "\n", "*?[x]", "\\", "x.json", "%", "%5F", "CON", "日本語" * 80,
    "日本語" * 80 + "!", "q" * 5000,
]  # fmt: skip


def test_key_is_the_digest_of_the_canonical_json_of_all_fields() -> None:
    made = Recipe(
        "a/b", partition="p", code_version="2", config={"y": 1, "x": 0.5}, inputs={"in": DIGEST}
    )
    fields = {
        "asset": "a/b",
        "partition": "p",
        "code_version": "2",
        "config": {"x": 0.5, "y": 1},
        "inputs": {"in": DIGEST},
    }
    assert made.key == digest_of(canonical_json(fields))


def test_key_ignores_the_order_of_dicts_and_sees_every_field(recipe: MakeRecipe) -> None:
    base = recipe(config={"a": 1, "b": {"c": 2, "d": 3}})
    assert base == recipe(config={"b": {"d": 3, "c": 2}, "a": 1})
    others = [
        recipe("dataset/other", config=base.config),
        recipe(partition="p", config=base.config),
        recipe(code_version="2", config=base.config),
        recipe(config={"a": 1, "b": {"c": 2, "d": 3.5}}),
        recipe(config=base.config, inputs={"x": DIGEST}),
        recipe(config=base.config, inputs={"y": DIGEST}),
    ]
    assert len({base, *others}) == len(others) + 1


def test_a_recipe_cannot_be_changed_from_outside(recipe: MakeRecipe) -> None:
    config = {"layers": ["k", "v"]}
    made = recipe(config=config)
    config["layers"].append("q")
    assert made.config == {"layers": ["k", "v"]}
    assert made == recipe(config={"layers": ("k", "v")})
    assert pickle.loads(pickle.dumps(made)) == made


def test_bad_recipes_are_refused(recipe: MakeRecipe) -> None:
    with pytest.raises(StoreError, match=r"config\.lr is nan"):
        recipe(config={"lr": float("nan")})
    with pytest.raises(StoreError, match="input 'latents' of dataset/index is 'oops'"):
        recipe(inputs={"latents": "oops"})
    for asset in ("", "/a", "a//b"):
        with pytest.raises(StoreError, match="a name such as"):
            recipe(asset)


def test_path_parts_are_safe_and_differ() -> None:
    parts = [path_part(text) for text in HOSTILE]
    assert len(set(parts)) == len(HOSTILE)
    for part in parts:
        assert part not in {"", ".", ".."}
        assert not set(part) & set('/\\:|*?"<>\n ')
        assert part.isascii()
        assert len(part) < 200
    assert path_part("demo|fim-ab12") == "demo%7Cfim-ab12"


def test_hostile_partitions_keep_apart(
    store: ArtifactStore, recipe: MakeRecipe, writes: Writes, tmp_path: Path
) -> None:
    for text in HOSTILE:
        assert not store.materialize(recipe(partition=text), writes(f=text)).cached
    assert store.partitions("dataset/index") == sorted(HOSTILE)
    for text in HOSTILE:
        head = store.head("dataset/index", text)
        assert head is not None
        assert head.recipe.partition == text
        assert store.artifact(head.digest).read_bytes("f") == text.encode()
    assert not (tmp_path / "escape.json").exists()
    assert [ref.recipe.partition for ref in store.heads()] == sorted(HOSTILE)


def test_assets_and_partitions_with_the_same_words_keep_apart(
    store: ArtifactStore, recipe: MakeRecipe, writes: Writes
) -> None:
    pairs = [("a", "b"), ("a/b", ""), ("a", ""), ("a/b", "c"), ("a/b.json", ""), ("a", "b/c")]
    for asset, partition in pairs:
        store.materialize(recipe(asset, partition=partition), writes(f=asset + partition))
    found = [(ref.recipe.asset, ref.recipe.partition) for ref in store.heads()]
    assert found == sorted(pairs)
    assert store.partitions("a") == ["", "b", "b/c"]
    assert store.partitions("a/b") == ["", "c"]
    assert store.partitions("nothing") == []
    assert store.head("nothing") is None
