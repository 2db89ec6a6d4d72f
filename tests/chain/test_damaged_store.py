"""A study whose files are damaged on disk: it is noticed, said, and made good by the next run."""

import shutil
from pathlib import Path

import pytest
from chain.conftest import Study

pytestmark = pytest.mark.slow


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def forget(study: Study, *assets: str) -> None:
    """Have assets made again by the next run."""
    for asset in assets:
        shutil.rmtree(study.root / "data" / "store" / "refs" / asset)


def blob(study: Study, digest: object) -> Path:
    return study.root / "data" / "store" / "cas" / "sha256" / str(digest)[:2] / str(digest)


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_a_flipped_bit_in_a_copy_of_the_base_model_changes_nothing(copy: Study) -> None:
    whole = copy.digests()
    weights = largest(copy.root / "data" / "cache")
    before = weights.read_bytes()
    flip(weights)
    answer = copy.run("tda", "verify", "--all", check=False)
    assert answer.returncode == 1
    (line,) = [line for line in answer.stdout.splitlines() if "corrupt" in line]
    assert str(weights) in line
    forget(copy, "unlearned", "attribution")
    copy.run("tda", "run")
    assert copy.digests() == whole
    assert weights.read_bytes() == before
    assert copy.run("tda", "verify", "--all").returncode == 0


def test_a_damaged_blob_is_named_once_and_made_again_by_the_next_run(copy: Study) -> None:
    whole = copy.digests()
    (ref,) = copy.refs("base/checkpoint").values()
    store = copy.root / "data" / "store"
    copied = copy.root / "data" / "cache" / str(ref["digest"])[:16]
    damaged = max(
        (
            p
            for p in (store / "cas").rglob("*")
            if p.is_file() and p.stat().st_size == largest(copied).stat().st_size
        ),
        key=lambda p: p.stat().st_size,
    )
    flip(damaged)
    shutil.rmtree(copied)
    forget(copy, "unlearned", "attribution")
    answer = copy.run("tda", "run", check=False)
    assert answer.returncode == 1
    said = " ".join(answer.stderr.split())
    for words in (damaged.name, str(damaged), "of base/checkpoint", "Run the same command again"):
        assert words in said
    copy.run("tda", "run")
    assert copy.digests() == whole
    assert copy.run("tda", "verify", "--all").returncode == 0


def test_a_damaged_shard_is_made_again_without_a_word_to_the_user(copy: Study) -> None:
    whole = copy.digests()
    shard = next(iter(copy.refs("unlearned/losses/shard").values()))
    flip(blob(copy, shard["digest"]))
    parents = [
        p for p in (copy.root / "data/store/refs/unlearned/losses").iterdir() if p.name != "shard"
    ]
    for parent in parents:
        shutil.rmtree(parent)
    copy.run("tda", "run")
    assert copy.digests() == whole
    assert copy.run("tda", "verify", "--all").returncode == 0
