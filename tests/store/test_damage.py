"""What becomes of damaged blobs and records: they are found, named, and made again."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tda_dagster.store import (
    Artifact,
    ArtifactStore,
    CorruptArtifact,
    CorruptRecord,
    Materialized,
    Recipe,
    digest_of,
    hashed,
)
from tda_dagster.store.collection import collect, plan_collection
from tda_dagster.store.records import sealed, unsealed
from tda_dagster.store.snapshots import add_snapshot, read_snapshot
from tda_dagster.store.verification import verify_everything, verify_needed

MakeRecipe = Callable[..., Recipe]
Writes = Callable[..., Any]


def in_another_process(ground: Any, tmp_path: Path) -> ArtifactStore:
    """The store as a machine sees it that has no copies of its blobs."""
    return ArtifactStore(ground.root, cache_dir=tmp_path / "elsewhere")


def flipped(path: Path) -> None:
    """Flip one bit and leave no other trace, as a failing disk does."""
    state = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    path.chmod(0o444)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("part", ["file", "list of files"])
def test_what_was_read_and_found_damaged_is_made_again_by_the_next_run(
    ground: Any, recipe: MakeRecipe, writes: Writes, tmp_path: Path, part: str
) -> None:
    made = ground.open().materialize(recipe(partition="q"), writes(table="rows"))
    digest = digest_of(b"rows") if part == "file" else made.ref.digest
    ground.damage(digest)
    reader = in_another_process(ground, tmp_path)
    with pytest.raises(CorruptArtifact) as caught:
        reader.artifact(made.ref.digest).path("table")
    message = str(caught.value)
    for words in (digest, "dataset/index [q]", made.ref.digest[:12], "again", "backup"):
        assert words in message
    assert "\n" not in message

    again = in_another_process(ground, tmp_path)
    produce = writes(table="rows")
    healed = again.materialize(recipe(partition="q"), produce)
    assert (healed.cached, produce.calls, healed.ref.digest) == (False, 1, made.ref.digest)
    assert healed.artifact.read_bytes("table") == b"rows"
    assert ground.open().verify() == []
    assert ground.files("damaged") == {}
    assert in_another_process(ground, tmp_path).materialize(recipe(partition="q"), produce).cached


def test_what_verify_finds_damaged_is_made_again(
    ground: Any, recipe: MakeRecipe, writes: Writes, tmp_path: Path
) -> None:
    ground.open().materialize(recipe(), writes(table="rows"))
    ground.damage(digest_of(b"rows"))
    assert [p.kind for p in in_another_process(ground, tmp_path).verify()] == ["corrupt"]
    healed = in_another_process(ground, tmp_path).materialize(recipe(), writes(table="rows"))
    assert not healed.cached
    assert ground.open().verify() == []


def test_other_bytes_of_the_same_recipe_replace_what_was_damaged(
    ground: Any, recipe: MakeRecipe, writes: Writes
) -> None:
    ground.open().materialize(recipe(), writes(table="rows"))
    ground.damage(digest_of(b"rows"))
    assert ground.open().verify() != []
    healed = ground.open().materialize(recipe(), writes(table="other"))
    assert healed.artifact.read_bytes("table") == b"other"
    assert ground.open().head("dataset/index") == healed.ref
    assert ground.open().verify() == []


def test_a_blob_that_was_put_back_is_believed_again(
    ground: Any, recipe: MakeRecipe, writes: Writes
) -> None:
    ground.open().materialize(recipe(), writes(table="rows"))
    name = ground.damage(digest_of(b"rows"))
    assert ground.open().verify() != []
    ground.overwrite(name, b"rows")
    assert ground.open().materialize(recipe(), writes(table="rows")).cached
    assert ground.files("damaged") == {}


def part_of(artifact: Artifact) -> Path:
    return artifact.path("part")


def test_a_shard_that_is_found_damaged_is_made_again_at_once(
    ground: Any,
    recipe: MakeRecipe,
    writes: Writes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shard = recipe("dataset/latents/shard", partition="0")
    path, made = ground.open().materialize_and_read(shard, writes(part="numbers"), part_of)
    assert path.read_bytes() == b"numbers"
    ground.damage(digest_of(b"numbers"))
    produce = writes(part="numbers")
    with caplog.at_level(logging.WARNING):
        store = in_another_process(ground, tmp_path)
        path, again = store.materialize_and_read(shard, produce, part_of)
    assert path.read_bytes() == b"numbers"
    assert (produce.calls, again.cached, again.ref.digest) == (1, False, made.ref.digest)
    assert "dataset/latents/shard [0]" in caplog.text
    assert store.heads() == []
    path, found = in_another_process(ground, tmp_path).materialize_and_read(shard, produce, part_of)
    assert (found.cached, produce.calls) == (True, 1)


def test_a_bit_that_flips_without_a_trace_is_found_by_the_next_process(
    tmp_path: Path, recipe: MakeRecipe, writes: Writes
) -> None:
    store = ArtifactStore(tmp_path / "store", cache_dir=tmp_path / "cache")
    made = store.materialize(recipe(), writes(table="rows" * 100))
    flipped(made.artifact.path("table"))
    code = (
        "import sys; from pathlib import Path; from tda_dagster.store import ArtifactStore\n"
        "store = ArtifactStore(sys.argv[1], cache_dir=Path(sys.argv[2]))\n"
        "store.artifact(sys.argv[3]).path('table')"
    )
    command = [sys.executable, "-c", code, *map(str, (tmp_path / "store", tmp_path / "cache"))]
    answer = subprocess.run([*command, made.ref.digest], capture_output=True, text=True)
    assert "CorruptArtifact" in answer.stderr
    assert not ArtifactStore(tmp_path / "store").materialize(recipe(), writes(table="x")).cached


def test_a_file_is_hashed_once_and_again_when_it_has_changed(
    tmp_path: Path, recipe: MakeRecipe, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counting(path: Path) -> str:
        read.append(path.name)
        return digest_of(path.read_bytes())

    monkeypatch.setattr(hashed, "digest_of_file", counting)
    store = ArtifactStore(tmp_path / "store", cache_dir=tmp_path / "cache")
    artifact = store.materialize(recipe(), writes(table="rows")).artifact
    digest = digest_of(b"rows")
    for _ in range(3):
        path = ArtifactStore(tmp_path / "store").artifact(artifact.digest).path("table")
        store.plain_folder(artifact)
    assert read.count(digest) + read.count("table") == 0  # both were hashed when they were written
    path.chmod(0o644)
    path.write_bytes(b"ROWS")
    with pytest.raises(CorruptArtifact):
        store.artifact(artifact.digest).path("table")
    assert read.count(digest) == 1


@pytest.mark.parametrize("remember", ["hashed", "vouched for"])
def test_a_change_within_one_tick_of_the_clock_is_seen(tmp_path: Path, remember: str) -> None:
    """Both writes have the same time, as on a filesystem whose clock is coarse."""
    path = tmp_path / "file"
    path.write_bytes(b"first")
    state = path.stat()
    if remember == "hashed":
        assert hashed.file_digest(path) == digest_of(b"first")
    else:
        hashed.vouch(path, digest_of(b"first"))
        assert hashed.file_digest(path) == digest_of(b"first")
    path.write_bytes(b"other")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert hashed.file_digest(path) == digest_of(b"other")


@pytest.mark.parametrize("text", [b"", b"{", b"[[" * 100_000, b"\xff\xfe"])
def test_a_damaged_ref_gives_way_to_a_new_answer(
    ground: Any, recipe: MakeRecipe, writes: Writes, text: bytes
) -> None:
    made = ground.open().materialize(recipe(), writes(f="x"))
    (name,) = ground.files("refs")
    ground.overwrite(name, text)
    with pytest.raises(CorruptRecord, match=name):
        ground.open().find(recipe())
    again = ground.open().materialize(recipe(), writes(f="x"))
    assert (again.cached, again.ref.digest) == (False, made.ref.digest)
    assert ground.open().find(recipe()) == again.ref
    assert ground.open().verify() == []


def test_every_flipped_bit_of_a_record_is_noticed(
    tmp_path: Path, recipe: MakeRecipe, writes: Writes
) -> None:
    store = ArtifactStore(tmp_path)
    store.materialize(recipe(), writes(f="x"))
    add_snapshot(store, "v1")
    reads: dict[str, Callable[[], object]] = {
        "refs": lambda: store.find(recipe()),
        "heads": lambda: store.head("dataset/index"),
        "snapshots": lambda: read_snapshot(store, "v1"),
    }
    for folder, read in reads.items():
        (path,) = (tmp_path / folder).rglob("*.json")
        whole = path.read_bytes()
        for place in range(0, len(whole), 3):
            data = bytearray(whole)
            data[place] ^= 1 << place % 8
            path.write_bytes(bytes(data))
            with pytest.raises(CorruptRecord):
                read()
        path.write_bytes(whole)
    assert verify_needed(store) == []


def test_records_without_a_checksum_are_read_as_they_are(
    ground: Any, recipe: MakeRecipe, writes: Writes
) -> None:
    made = ground.open().materialize(recipe(), writes(f="x"))
    for folder in ("refs", "heads"):
        ((name, data),) = ground.files(folder).items()
        record = unsealed(data)
        assert sealed(record) == data
        ground.overwrite(name, json.dumps(record).encode())
    assert ground.open().head("dataset/index") == made.ref
    assert ground.open().materialize(recipe(), writes(f="x")).cached


# Looking at everything


def make_study(ground: Any, recipe: MakeRecipe, writes: Writes) -> dict[str, Materialized]:
    """Something live, a shard behind nothing, something once live, and a blob of nobody."""
    store = ground.open()
    made = {
        "old": store.materialize(recipe(), writes(f="old")),
        "live": store.materialize(recipe(config={}), writes(f="live")),
    }
    shard = recipe("dataset/latents/shard", inputs={"index": made["live"].ref.digest})
    made["shard"] = store.materialize(shard, writes(part="shard"), head=False)
    store.put_bytes(b"nobody's")
    return made


@pytest.mark.parametrize("victim", ["old", "shard", "nobody's"])
def test_verifying_everything_finds_what_nothing_live_needs(
    ground: Any, recipe: MakeRecipe, writes: Writes, tmp_path: Path, victim: str
) -> None:
    make_study(ground, recipe, writes)
    assert verify_everything(in_another_process(ground, tmp_path)) == []
    name = ground.damage(digest_of(victim.encode()))
    assert verify_needed(in_another_process(ground, tmp_path)) == []
    (problem,) = verify_everything(in_another_process(ground, tmp_path))
    assert problem.path.endswith(name)
    assert (problem.kind, problem.needed) == ("corrupt", False)
    asset = {"old": "dataset/index", "shard": "dataset/latents/shard", "nobody's": ""}[victim]
    assert problem.asset == asset


def test_verifying_everything_tells_needed_from_unneeded(
    ground: Any, recipe: MakeRecipe, writes: Writes, tmp_path: Path
) -> None:
    make_study(ground, recipe, writes)
    ground.damage(digest_of(b"live"))
    (problem,) = verify_everything(in_another_process(ground, tmp_path))
    assert (problem.asset, problem.needed) == ("dataset/index", True)


def test_verifying_everything_finds_damaged_copies(
    ground: Any, recipe: MakeRecipe, writes: Writes
) -> None:
    made = make_study(ground, recipe, writes)["live"]
    store = ground.open()
    folder = store.plain_folder(made.artifact)
    assert verify_everything(store) == []
    (folder / "f").chmod(0o644)
    (folder / "f").write_bytes(b"LIVE")
    (problem,) = verify_everything(store)
    assert (problem.kind, problem.path) == ("corrupt", str(folder / "f"))
    (folder / "f").unlink()
    (problem,) = verify_everything(store)
    assert (problem.kind, problem.path) == ("missing", str(folder / "f"))
    store.plain_folder(made.artifact)
    assert verify_everything(store) == []


def test_verifying_everything_finds_damaged_copies_of_remote_blobs(
    s3_root: str, tmp_path: Path, recipe: MakeRecipe, writes: Writes
) -> None:
    store = ArtifactStore(s3_root, cache_dir=tmp_path)
    path = store.materialize(recipe(), writes(f="rows")).artifact.path("f")
    flipped(path)
    os.utime(path)
    (problem,) = verify_everything(store)
    assert problem.path == str(path)
    assert verify_needed(store) == []
    assert store.artifact(store.heads()[0].digest).path("f").read_bytes() == b"rows"
    assert verify_everything(store) == []


def test_collecting_a_damaged_blob_forgets_it(
    ground: Any, recipe: MakeRecipe, writes: Writes
) -> None:
    make_study(ground, recipe, writes)
    ground.damage(digest_of(b"nobody's"))
    assert verify_everything(ground.open()) != []
    assert len(ground.files("damaged")) == 1
    time.sleep(0.01)
    plan = plan_collection(ground.open(), grace=timedelta(0))
    collect(ground.open(), plan)
    assert ground.files("damaged") == {}
    assert verify_everything(ground.open()) == []
