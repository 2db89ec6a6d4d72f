import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tda_dagster.store import (
    ArtifactStore,
    CorruptArtifact,
    CorruptRecord,
    MissingArtifact,
    Recipe,
    StoreError,
    canonical_json,
    digest_of,
)

MakeRecipe = Callable[..., Recipe]
Writes = Callable[..., Any]
HOW: dict[str, Any] = {"run_id": "run", "device": "cpu", "seconds": 1.0}


def fill(folder: Path) -> dict[str, bytes]:
    files = {
        "model_index.json": b"{}",
        "unet/weights.safetensors": bytes(range(256)) * 5000,
        "unet/config.json": b"{}",
        "empty": b"",
        ".hidden/ünï": b"x",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return files


# Blobs


def test_blobs_lie_under_their_digest(store: ArtifactStore, ground: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"abc" * 1_000_000)
    digest, size = store.put_file(source)
    assert (digest, size) == (digest_of(source.read_bytes()), 3_000_000)
    assert store.put_bytes(b"") == digest_of(b"")
    assert set(ground.files("cas")) == {f"cas/sha256/{d[:2]}/{d}" for d in (digest, digest_of(b""))}
    assert store.read_bytes(digest) == store.local_file(digest).read_bytes() == b"abc" * 1_000_000
    assert source.read_bytes() == b"abc" * 1_000_000


@pytest.mark.parametrize("left", [b"same?", b"who", b"longer than it was", b""])
def test_putting_a_blob_again_mends_it(ground: Any, store: ArtifactStore, left: bytes) -> None:
    digest = store.put_bytes(b"whole")
    for putting in (store, ground.open()):
        ground.overwrite(f"cas/sha256/{digest[:2]}/{digest}", left)
        putting.put_bytes(b"whole")
        assert ground.files()[f"cas/sha256/{digest[:2]}/{digest}"] == b"whole"
        assert ground.open().read_bytes(digest) == b"whole"


def test_a_blob_that_is_whole_is_not_written_again(ground: Any) -> None:
    digest = ground.open().put_bytes(b"whole")
    before = ground.fs.info(f"{ground.root}/cas/sha256/{digest[:2]}/{digest}")
    ground.open().put_bytes(b"whole")
    assert ground.fs.info(f"{ground.root}/cas/sha256/{digest[:2]}/{digest}") == before


def test_a_flipped_bit_is_found_by_every_way_of_reading(
    store: ArtifactStore, ground: Any, recipe: MakeRecipe, writes: Writes, tmp_path: Path
) -> None:
    artifact = store.materialize(recipe(), writes(table="a" * 100)).artifact
    assert artifact.path("table").read_text() == "a" * 100
    digest = digest_of(b"a" * 100)
    name = ground.damage(digest)
    # A copy that was verified before the damage stays in the cache, so look with an empty one.
    damaged = ArtifactStore(ground.root, cache_dir=tmp_path / "empty").artifact(artifact.digest)
    reads: list[Callable[[], object]] = [
        lambda: damaged.read_bytes("table"),
        lambda: damaged.path("table"),
        lambda: damaged.open("table"),
        lambda: damaged.export(tmp_path / "out"),
    ]
    for read in reads:
        words = rf"{digest} .*{name}.*'table'.*dataset/index.*command again"
        with pytest.raises(CorruptArtifact, match=words):
            read()
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("ground", ["memory"], indirect=True)
def test_a_damaged_copy_in_the_cache_is_fetched_again(ground: Any) -> None:
    store = ground.open()
    digest = store.put_bytes(b"x" * 1000)
    path = store.local_file(digest)
    assert path.is_relative_to(ground.cache_dir)
    path.chmod(0o644)
    path.write_bytes(b"y" * 1000)
    assert store.local_file(digest).read_bytes() == b"x" * 1000
    assert ground.open().local_file(digest) == path


def test_what_is_not_there_is_named(store: ArtifactStore) -> None:
    digest = digest_of(b"never stored")
    for read in (store.read_bytes, store.local_file, store.artifact):
        with pytest.raises(MissingArtifact, match=digest):
            read(digest)
    with pytest.raises(StoreError, match="not a digest"):
        store.read_bytes("../../etc/passwd")


@pytest.mark.parametrize("ground", ["local"], indirect=True)
def test_a_file_that_changed_after_it_was_verified_is_verified_again(ground: Any) -> None:
    store = ground.open()
    digest = store.put_bytes(b"x" * 1000)
    store.local_file(digest)
    ground.damage(digest)
    with pytest.raises(CorruptArtifact):
        store.local_file(digest)


# Artifacts


def test_a_folder_comes_back_as_it_was(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    files = fill(tmp_path / "in")
    digest = store.put_tree(tmp_path / "in")
    artifact = store.artifact(digest)
    assert artifact.entries == sorted(files)
    assert artifact.size_bytes == sum(map(len, files.values()))
    assert artifact.has("empty")
    assert not artifact.has("unet")
    for name, data in files.items():
        assert artifact.read_bytes(name) == artifact.path(name).read_bytes() == data
        with artifact.open(name) as file:
            assert file.read() == data
    (tmp_path / "out" / "unet").mkdir(parents=True)
    (tmp_path / "out" / "unet" / "config.json").write_text("to be replaced")
    artifact.export(tmp_path / "out")
    out = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*")}
    assert {name: path.read_bytes() for name, path in out.items() if path.is_file()} == files
    (tmp_path / "out" / "empty").write_text("an exported file is one's own")
    assert store.put_tree(tmp_path / "in") == digest
    with pytest.raises(StoreError, match="no file 'tracks'"):
        artifact.read_bytes("tracks")


def test_the_digest_of_an_artifact_is_that_of_its_tree(
    store: ArtifactStore, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "b").write_text("2")
    (folder / "a").write_text("1")
    entries = {n: {"digest": digest_of(t), "size": 1} for n, t in {"a": b"1", "b": b"2"}.items()}
    tree = canonical_json({"kind": "tree", "entries": entries})
    assert store.put_tree(folder) == digest_of(tree)


def test_links_to_files_are_files_and_others_are_refused(
    store: ArtifactStore, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "elsewhere").write_text("content")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert store.artifact(store.put_tree(folder)).read_bytes("link") == b"content"
    (folder / "folder").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="neither a file nor a folder"):
        store.put_tree(folder)


def test_an_empty_folder_is_no_artifact(store: ArtifactStore, recipe: MakeRecipe) -> None:
    with pytest.raises(StoreError, match="at least one"):
        store.materialize(recipe(), lambda folder: None)
    assert list(store.refs()) == []


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b", "a//b", "."])
def test_a_tree_cannot_name_files_outside(store: ArtifactStore, name: str) -> None:
    entry = {"digest": store.put_bytes(b"evil"), "size": 4}
    tree = store.put_bytes(canonical_json({"kind": "tree", "entries": {name: entry}}))
    with pytest.raises(StoreError, match="unsafe file name"):
        store.artifact(tree)


def test_a_plain_blob_is_no_artifact(store: ArtifactStore) -> None:
    for data in (b"\x00\xff", b"[]", b"{}", b'{"kind": "other"}', b"3"):
        with pytest.raises(StoreError, match="not an artifact"):
            store.artifact(store.put_bytes(data))


# Computing


def test_a_second_time_nothing_is_computed(
    store: ArtifactStore, ground: Any, recipe: MakeRecipe, writes: Writes
) -> None:
    produce = writes(table="rows")
    first = store.materialize(recipe(), produce, run_id="one", device="cuda")
    again = ground.open().materialize(recipe(), produce, run_id="two")
    assert (first.cached, again.cached, produce.calls) == (False, True, 1)
    assert again.ref == first.ref == store.find(recipe()) == store.head("dataset/index")
    assert (first.ref.run_id, first.ref.device, first.ref.size_bytes) == ("one", "cuda", 4)
    assert again.artifact.read_bytes("table") == b"rows"


def test_what_parts_took_before_is_added_to_what_it_took(
    store: ArtifactStore, recipe: MakeRecipe, writes: Writes
) -> None:
    spent: list[float] = []

    def produce(folder: Path) -> None:
        writes(table="rows")(folder)
        spent.append(1000.0)  # known only when the work is done

    made = store.materialize(recipe(), produce, spent_s=lambda: sum(spent))
    assert 1000 < made.ref.seconds < 1100


def test_changing_a_setting_and_back_restores_the_head_from_the_cache(
    store: ArtifactStore, recipe: MakeRecipe, writes: Writes
) -> None:
    old, new = writes(table="old"), writes(table="new")
    store.materialize(recipe(), old)
    changed = store.materialize(recipe(config={"rate": 0.2}), new)
    assert store.heads() == [changed.ref]
    assert store.materialize(recipe(), old).cached
    assert store.heads() == [store.find(recipe())]
    assert (old.calls, new.calls) == (1, 1)


def test_head_can_be_left_alone(store: ArtifactStore, recipe: MakeRecipe, writes: Writes) -> None:
    made = store.materialize(recipe(), writes(f="x"), head=False)
    assert store.heads() == []
    assert list(store.refs()) == [made.ref]


def test_the_bytes_do_not_depend_on_when_or_by_whom(
    ground: Any, recipe: MakeRecipe, writes: Writes, tmp_path: Path
) -> None:
    one = ground.open().materialize(recipe(), writes(a="1", b="2"), run_id="one").ref
    other = ArtifactStore(tmp_path / "other").materialize(
        recipe(), writes(b="2", a="1"), run_id="two", device="cuda"
    )
    assert one.digest == other.ref.digest


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_an_exception_leaves_nothing(ground: Any, recipe: MakeRecipe, error: BaseException) -> None:
    folders = []

    def produce(folder: Path) -> None:
        (folder / "half").write_text("half")
        folders.append(folder)
        raise error

    with pytest.raises(type(error)):
        ground.open().materialize(recipe(), produce)
    assert ground.files() == {}
    assert not folders[0].exists()


def test_what_produce_only_linked_stays_its_owners(
    store: ArtifactStore, recipe: MakeRecipe, tmp_path: Path
) -> None:
    audio = tmp_path / "audio.wav"
    audio.write_bytes(b"pcm")
    audio.chmod(0o644)

    def produce(folder: Path) -> None:
        (folder / "soft").symlink_to(audio)
        os.link(audio, folder / "hard")

    artifact = store.materialize(recipe(), produce).artifact
    assert audio.stat().st_mode & 0o777 == 0o644
    audio.write_bytes(b"changed")
    assert artifact.read_bytes("soft") == artifact.read_bytes("hard") == b"pcm"


def test_the_first_answer_stays_and_another_is_reported(
    store: ArtifactStore,
    recipe: MakeRecipe,
    writes: Writes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = store.materialize(recipe(), writes(f="1")).ref
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "f").write_text("2")
    other = store.put_tree(tmp_path / "in")
    with caplog.at_level(logging.WARNING):
        assert store.commit(recipe(), other, **HOW) == first
    assert "not deterministic" in caplog.text
    assert first.digest in caplog.text
    assert other in caplog.text
    caplog.clear()
    assert store.commit(recipe(), first.digest, **HOW) == first
    assert caplog.text == ""


def test_commit_refuses_what_is_not_whole(
    store: ArtifactStore, ground: Any, recipe: MakeRecipe, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "f").write_text("content")
    tree, file = store.put_tree(tmp_path / "in"), digest_of(b"content")
    ground.overwrite(f"cas/sha256/{file[:2]}/{file}", b"short")
    with pytest.raises(CorruptArtifact, match=file):
        store.commit(recipe(), tree, **HOW)
    ground.remove(f"cas/sha256/{file[:2]}/{file}")
    with pytest.raises(MissingArtifact, match=file):
        store.commit(recipe(), tree, **HOW)
    assert list(store.refs()) == []


@pytest.mark.parametrize("text", ["same", "other"])
def test_an_artifact_that_was_lost_is_made_again(
    ground: Any, recipe: MakeRecipe, writes: Writes, text: str
) -> None:
    store = ground.open()
    made = store.materialize(recipe(), writes(f="same")).artifact
    for lost in (digest_of(b"same"), made.digest):
        ground.remove(f"cas/sha256/{lost[:2]}/{lost}")
        again = ground.open().materialize(recipe(), writes(f=text))
        assert not again.cached
        assert again.ref == store.find(recipe()) == store.head("dataset/index")
        assert again.artifact.read_bytes("f") == text.encode()
        assert store.verify() == []
        if text == "other":
            break


def test_damaged_records_are_named(
    store: ArtifactStore, ground: Any, recipe: MakeRecipe, writes: Writes
) -> None:
    ref = store.materialize(recipe(), writes(f="x")).ref
    (name,) = ground.files("refs")
    assert name == f"refs/dataset/index/_/{ref.recipe.key}.json"
    whole = ground.files("refs")[name]
    for text in (b"", whole.replace(b"0.1", b"0.2"), whole.replace(b"device", b"devise")):
        ground.overwrite(name, text)
        for read in (
            lambda s: s.find(recipe()),
            lambda s: s.head("dataset/index"),
            lambda s: list(s.refs()),
        ):
            with pytest.raises(CorruptRecord, match=name):
                read(ground.open())
    ground.remove(name)
    with pytest.raises(CorruptRecord, match=r"heads/dataset/index/_\.json .* does not exist"):
        store.heads()


def test_a_head_in_the_place_of_another_is_named(
    store: ArtifactStore, ground: Any, recipe: MakeRecipe, writes: Writes
) -> None:
    """As on a filesystem that takes capitals and small letters for the same."""
    store.materialize(recipe(partition="Bach"), writes(f="x"))
    data = ground.files()["heads/dataset/index/Bach.json"]
    ground.fs.pipe_file(f"{ground.root}/heads/dataset/index/bach.json", data)
    for read in (store.heads, lambda: store.head("dataset/index", "bach")):
        with pytest.raises(CorruptRecord, match=r"bach\.json .*partition 'Bach'.*capitals"):
            read()


@pytest.mark.parametrize("text", [b"[]", b"3", b'{"asset":1,"partition":2,"recipe":3,"digest":4}'])
def test_nonsense_in_the_place_of_a_head_is_named(
    store: ArtifactStore, ground: Any, recipe: MakeRecipe, writes: Writes, text: bytes
) -> None:
    store.materialize(recipe(), writes(f="x"))
    ground.overwrite("heads/dataset/index/_.json", text)
    with pytest.raises(CorruptRecord, match=r"heads/dataset/index/_\.json"):
        store.heads()
    with pytest.raises(CorruptRecord, match=r"heads/dataset/index/_\.json"):
        store.partitions("dataset/index")
