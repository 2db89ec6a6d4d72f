"""What is left when a process dies, and who wins when several do the same at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from tda_dagster.store import ArtifactStore, Recipe, digest_of
from tda_dagster.store.staging import Staging

PRODUCERS = 4
Work = Callable[[str, int, Barrier], list[str]]


def recipe(number: int = 0) -> Recipe:
    return Recipe("base/checkpoint", code_version="1", config={"number": number})


KILLED_INSIDE_PRODUCE = """
import sys, time
from tda_dagster.store import ArtifactStore, Recipe

def produce(folder):
    (folder / "weights").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)

recipe = Recipe("base/checkpoint", code_version="1", config={"number": 0})
ArtifactStore(sys.argv[1]).materialize(recipe, produce)
"""


def test_killed_inside_produce(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_INSIDE_PRODUCE, str(root)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL

    store = ArtifactStore(root)
    assert store.find(recipe()) is None
    assert store.heads() == [] == list(store.refs())
    assert not (root / "cas").exists()
    (left,) = (root / "tmp").iterdir()

    yesterday = time.time() - 86_400
    os.utime(left, (yesterday, yesterday))
    made = store.materialize(recipe(), partial(write_weights, b"whole"))
    assert not made.cached
    assert made.artifact.read_bytes("weights") == b"whole"
    assert list((root / "tmp").iterdir()) == []


def write_weights(data: bytes, folder: Path) -> None:
    (folder / "weights").write_bytes(data)


def test_only_folders_of_the_dead_are_swept(tmp_path: Path) -> None:
    with Staging(tmp_path).folder() as alive:
        yesterday = time.time() - 86_400
        os.utime(alive, (yesterday, yesterday))
        other = tmp_path / f"another-machine-{alive.name}"
        other.mkdir()
        os.utime(other, (yesterday, yesterday))
        with Staging(tmp_path).folder() as second:
            assert alive.is_dir()
            assert other.is_dir()
            assert second.is_dir()


KILLED_ANYWHERE = """
import sys
from tda_dagster.store import ArtifactStore, Recipe

store = ArtifactStore(sys.argv[1])
print("ready", flush=True)
for number in range(100_000):
    def produce(folder):
        for part in range(3):
            (folder / str(part)).write_bytes(bytes([part]) * 100_000 + str(number).encode())
    recipe = Recipe("base/checkpoint", code_version="1", config={"number": number})
    store.materialize(recipe, produce)
"""


def test_killed_anywhere(tmp_path: Path) -> None:
    done = 0
    for delay_s in (0.011, 0.053, 0.097, 0.171, 0.239):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED_ANYWHERE, str(tmp_path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay_s)
            process.kill()
        store = ArtifactStore(tmp_path)
        refs = list(store.refs())
        assert len(refs) >= done
        done = len(refs)
        for ref in refs:
            artifact = store.artifact(ref.digest)
            assert [len(artifact.read_bytes(name)) > 100_000 for name in artifact.entries] == [
                True
            ] * 3
        assert store.verify() == []
        for path in (tmp_path / "cas").rglob("*"):
            assert path.is_dir() or digest_of(path.read_bytes()) == path.name
    assert done > 0


def race(root: str, number: int, start: Barrier) -> list[str]:
    """Commit, as this competitor, an answer of one's own to each of 10 recipes."""
    store = ArtifactStore(root)
    folder = Path(root).parent / f"in{number}"
    folder.mkdir()
    write_weights(str(number).encode(), folder)
    mine = store.put_tree(folder)
    start.wait()
    return [
        store.commit(recipe(i), mine, run_id=str(number), device="cpu", seconds=0.0).digest
        for i in range(10)
    ]


def compute(root: str, number: int, start: Barrier) -> list[str]:
    """Materialize the same recipes as everybody else."""
    store = ArtifactStore(root)
    start.wait()
    digests = []
    for i in range(10):
        data = bytes([i]) * 10_000
        made = store.materialize(recipe(i), partial(write_weights, data))
        digests.append(made.ref.digest)
    return digests


@pytest.mark.parametrize("work", [race, compute])
def test_processes_racing_for_the_same_recipes_agree(tmp_path: Path, work: Work) -> None:
    root = str(tmp_path / "store")
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        start = manager.Barrier(PRODUCERS)
        with context.Pool(PRODUCERS) as pool:
            jobs = [(root, number, start) for number in range(PRODUCERS)]
            answers: list[list[str]] = pool.starmap(work, jobs, chunksize=1)
    store = ArtifactStore(root)
    refs = list(store.refs())
    assert len(refs) == 10
    assert {ref.recipe for ref in refs} == {recipe(i) for i in range(10)}
    for i in range(10):
        found = store.find(recipe(i))
        assert found is not None
        assert {digests[i] for digests in answers} == {found.digest}
    assert store.verify() == []
    assert list((tmp_path / "store" / "tmp").iterdir()) == []
