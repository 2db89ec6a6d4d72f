"""Copies of artifacts as plain folders: right whenever they are given out, whatever was done to
them."""

import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from tda_dagster.store import Artifact, ArtifactStore, Recipe

FILES = {"model_index.json": b"{}", "unet/weights": b"w" * 1000, "unet/config.json": b"{}"}
BUILDERS = 4

Harm = Callable[[Path], None]


def produce(folder: Path) -> None:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store", cache_dir=tmp_path / "cache")


@pytest.fixture
def artifact(store: ArtifactStore) -> Artifact:
    return store.materialize(Recipe("base/checkpoint", code_version="1"), produce).artifact


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def write(path: Path, data: bytes) -> None:
    if path.exists():
        path.chmod(0o644)
    path.write_bytes(data)


def flip(folder: Path) -> None:
    """One bit, and nothing else of the file's state."""
    path = folder / "unet" / "weights"
    state = path.stat()
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    write(path, bytes(data))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def link_a_file(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    write(folder.parent / "theirs", b"[]")
    (folder / "model_index.json").symlink_to(folder.parent / "theirs")


def link_a_folder(folder: Path) -> None:
    shutil.move(folder / "unet", folder.parent / "theirs")
    write(folder.parent / "theirs" / "weights", b"v" * 1000)
    (folder / "unet").symlink_to(folder.parent / "theirs")


def file_for_a_folder(folder: Path) -> None:
    shutil.rmtree(folder / "unet")
    write(folder / "unet", b"file")


def folder_for_a_file(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    (folder / "model_index.json").mkdir()
    write(folder / "model_index.json" / "x", b"x")


def link_the_whole(folder: Path) -> None:
    shutil.move(folder, folder.parent / "theirs")
    write(folder.parent / "theirs" / "unet" / "weights", b"v" * 1000)
    folder.symlink_to(folder.parent / "theirs")


def leave_half(folder: Path) -> None:
    """As a process leaves it that is killed while it copies into the folder."""
    shutil.rmtree(folder / "unet")
    (folder / ".export-abc").mkdir()
    write(folder / ".export-abc" / "half", b"w" * 10)
    write(folder / ".complete", b"")


HARM: dict[str, Harm] = {
    "flip": flip,
    "other bytes": lambda f: write(f / "unet" / "weights", b"v" * 1000),
    "truncated": lambda f: write(f / "unet" / "weights", b"w" * 999),
    "empty": lambda f: write(f / "unet" / "weights", b""),
    "longer": lambda f: write(f / "unet" / "weights", b"w" * 1001),
    "removed": lambda f: (f / "unet" / "config.json").unlink(),
    "added": lambda f: write(f / "unet" / "weights.index.json", b"{}"),
    "folder added": lambda f: shutil.copytree(f / "unet", f / "vae"),
    "removed altogether": shutil.rmtree,
    "a link for a file": link_a_file,
    "a link for a folder": link_a_folder,
    "a link for the whole": link_the_whole,
    "a file for a folder": file_for_a_folder,
    "a folder for a file": folder_for_a_file,
    "a file for the whole": lambda f: (shutil.rmtree(f), write(f, b"x"))[1],
    "half made": leave_half,
}

IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from tda_dagster.store import ArtifactStore
store = ArtifactStore(sys.argv[1], cache_dir=Path(sys.argv[2]))
print(store.plain_folder(store.artifact(sys.argv[3])))
"""


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_what_was_done_to_a_copy_does_not_reach_who_reads_it(
    store: ArtifactStore, artifact: Artifact, harm: Harm
) -> None:
    folder = store.plain_folder(artifact)
    assert content(folder) == FILES
    if harm is flip:  # this process has seen the file, and nothing says that it has changed
        from tda_dagster.store import hashed

        hashed._known.clear()
    harm(folder)
    assert store.plain_folder(artifact) == folder
    assert content(folder) == FILES
    assert not (folder / "unet").is_symlink()
    assert not folder.is_symlink()


def test_another_process_finds_a_bit_that_flipped(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    folder = store.plain_folder(artifact)
    flip(folder)
    places = [str(tmp_path / "store"), str(tmp_path / "cache")]
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, *places, artifact.digest]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout == f"{folder}\n"
    assert content(folder) == FILES
    assert f"{folder}: 1 of 3 files are damaged or missing (unet/weights)" in answer.stderr


def test_whose_file_a_link_led_to_keeps_it(store: ArtifactStore, artifact: Artifact) -> None:
    folder = store.plain_folder(artifact)
    link_a_folder(folder)
    store.plain_folder(artifact)
    assert (folder.parent / "theirs" / "weights").read_bytes() == b"v" * 1000


def test_an_edit_right_after_the_copy_was_made_is_undone(
    store: ArtifactStore, artifact: Artifact
) -> None:
    """However coarse the clock of the filesystem is."""
    for number in range(20):
        folder = store.plain_folder(artifact)
        write(folder / "unet" / "weights", bytes([number]) * 1000)
        assert content(store.plain_folder(artifact)) == FILES


def test_a_copy_in_the_store_is_not_the_store_itself(
    store: ArtifactStore, artifact: Artifact
) -> None:
    write(store.plain_folder(artifact) / "unet" / "weights", b"v" * 1000)
    assert store.verify() == []
    assert store.plain_folder(artifact).stat().st_mode & 0o200
    for name in FILES:
        assert (store.plain_folder(artifact) / name).stat().st_mode & 0o222 == 0


def test_a_mended_copy_is_told(
    store: ArtifactStore, artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    folder = store.plain_folder(artifact)
    (folder / "unet" / "weights").unlink()
    with caplog.at_level(logging.WARNING):
        store.plain_folder(artifact)
        assert caplog.text.count(str(folder)) == 1
        store.plain_folder(artifact)
    assert caplog.text.count(str(folder)) == 1


def test_processes_that_make_the_same_copy_at_once_all_see_it_whole(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(BUILDERS) as pool:
        for harm in (None, shutil.rmtree, flip, leave_half):
            folder = tmp_path / "cache" / artifact.digest[:16]
            if harm is not None:
                harm(folder)
            start = manager.Barrier(BUILDERS)
            jobs = [(str(tmp_path / "store"), str(tmp_path / "cache"), artifact.digest, start)]
            assert pool.starmap(see, jobs * BUILDERS, chunksize=1) == [True] * BUILDERS
            assert content(folder) == FILES
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


def see(root: str, cache: str, digest: str, start: Barrier) -> bool:
    from tda_dagster.store import hashed

    hashed._known.clear()  # each round is a new process's first look
    store = ArtifactStore(root, cache_dir=Path(cache))
    artifact = store.artifact(digest)
    start.wait()
    folder = store.plain_folder(artifact)
    return {name: (folder / name).read_bytes() for name in FILES} == FILES


KILLED_WHILE_IT_BUILDS = """
import sys, time
from pathlib import Path
from tda_dagster.store import ArtifactStore, Artifact
store = ArtifactStore(sys.argv[1], cache_dir=Path(sys.argv[2]))
write = Artifact.write_files
def slow(self, folder):
    write(self, folder)
    print("ready", flush=True)
    time.sleep(60)
Artifact.write_files = slow
store.plain_folder(store.artifact(sys.argv[3]))
"""


def test_a_process_that_is_killed_while_it_builds_leaves_nothing_to_be_seen(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    places = [str(tmp_path / "store"), str(tmp_path / "cache")]
    command = [sys.executable, "-c", KILLED_WHILE_IT_BUILDS, *places, artifact.digest]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert store.remove_leftovers() == 0  # it lives
        process.kill()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tmp"]
    assert store.remove_leftovers() == 1
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []
    assert content(store.plain_folder(artifact)) == FILES


def test_a_second_look_costs_no_reading(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store", cache_dir=tmp_path / "cache")

    def large(folder: Path) -> None:
        (folder / "weights").write_bytes(os.urandom(100_000_000))

    artifact = store.materialize(Recipe("base/checkpoint", code_version="1"), large).artifact
    store.plain_folder(artifact)
    start = time.perf_counter()
    for _ in range(100):
        store.plain_folder(artifact)
    assert time.perf_counter() - start < 2.0  # to hash it a hundred times takes five or more
