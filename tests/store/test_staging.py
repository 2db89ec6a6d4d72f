"""Whose unfinished work is removed, and whose is not."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tda_dagster.store import ArtifactStore, Recipe, UnusableFolder
from tda_dagster.store import staging as stagings
from tda_dagster.store.processes import this_process
from tda_dagster.store.staging import Staging

HOUR_S = 3600.0
DAY_S = 86_400.0

WORKS = """
import sys, time
from pathlib import Path
from tda_dagster.store.staging import Staging
with Staging(Path(sys.argv[1])).folder() as folder:
    (folder / "half").write_bytes(b"half")
    print(folder.name, flush=True)
    time.sleep(60)
"""
WORKS_THROUGH_A_CHILD = """
import os, sys, time
from pathlib import Path
from tda_dagster.store.staging import Staging
with Staging(Path(sys.argv[1])).folder() as folder:
    child = os.fork()
    if child:
        print(folder.name, child, flush=True)
        os._exit(0)
    time.sleep(60)
"""


def begin(code: str, root: Path) -> tuple["subprocess.Popen[bytes]", list[str]]:
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, process.stdout.readline().decode().split()


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))


def test_what_a_killed_process_left_goes_at_once_and_what_a_living_one_uses_stays(
    tmp_path: Path,
) -> None:
    dead, (left,) = begin(WORKS, tmp_path)
    dead.kill()
    dead.wait()
    alive, (used,) = begin(WORKS, tmp_path)
    try:
        age(tmp_path / used, 30 * DAY_S)
        assert {path.name for path in tmp_path.iterdir()} == {used}  # it swept when it began
        (tmp_path / left).mkdir()
        assert Staging(tmp_path).remove_leftovers() == 1
        assert {path.name for path in tmp_path.iterdir()} == {used}
    finally:
        alive.kill()
        alive.wait()
    assert Staging(tmp_path).remove_leftovers() == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_child_of_a_dead_process_uses_stays(tmp_path: Path) -> None:
    parent, (used, child) = begin(WORKS_THROUGH_A_CHILD, tmp_path)
    parent.wait()
    try:
        assert Staging(tmp_path).remove_leftovers() == 0
        assert (tmp_path / used).is_dir()
    finally:
        os.kill(int(child), 9)
    deadline = time.monotonic() + 10
    while not Staging(tmp_path).remove_leftovers():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_id_that_was_given_to_another_process_is_not_mistaken(tmp_path: Path) -> None:
    us = this_process()
    with Staging(tmp_path).folder() as ours:
        later = tmp_path / ours.name.replace(f"-{us.started}-", "-1-")
        later.mkdir()
        assert Staging(tmp_path).remove_leftovers() == 1
        assert list(tmp_path.iterdir()) == [ours]


@pytest.mark.parametrize(
    ("name", "old_s", "goes"),
    [
        ("{host}-0123456789abcdef-1-1-abc", HOUR_S / 2, False),  # before a restart, or its double
        ("{host}-0123456789abcdef-1-1-abc", 2 * HOUR_S, True),
        ("{host}-abc", 2 * HOUR_S, True),  # as earlier versions named them
        ("another-0123456789abcdef-1-1-abc", 6 * DAY_S, False),
        ("another-0123456789abcdef-1-1-abc", 8 * DAY_S, True),
    ],
)
def test_folders_of_others_go_by_age(tmp_path: Path, name: str, old_s: float, goes: bool) -> None:
    folder = tmp_path / name.format(host=stagings._host())
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "half").write_text("half")
    age(folder, old_s)
    assert Staging(tmp_path).remove_leftovers() == int(goes)
    assert folder.exists() != goes


def test_a_file_written_lately_keeps_an_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "another-0123456789abcdef-1-1-abc"
    (folder / "inner").mkdir(parents=True)
    age(folder, 30 * DAY_S)
    (folder / "inner" / "half").write_text("half")
    os.utime(folder, (0, 0))
    os.utime(folder / "inner", (0, 0))
    assert Staging(tmp_path).remove_leftovers() == 0


def test_files_and_links_in_the_room_are_left_alone(tmp_path: Path) -> None:
    room, theirs = tmp_path / "tmp", tmp_path / "theirs"
    theirs.mkdir()
    room.mkdir()
    (room / ".DS_Store").write_text("x")
    (room / "another-0123456789abcdef-1-1-abc").symlink_to(theirs)
    os.utime(theirs, (0, 0))
    assert Staging(room).remove_leftovers() == 0
    assert theirs.is_dir()


@pytest.mark.parametrize("remote", [False, True])
def test_a_store_removes_leftovers_in_itself_and_in_its_cache(tmp_path: Path, remote: bool) -> None:
    root = f"memory://{tmp_path}" if remote else str(tmp_path / "store")
    store = ArtifactStore(root, cache_dir=tmp_path / "cache")
    assert store.remove_leftovers() == 0
    rooms = [tmp_path / "cache" / "tmp"] + ([] if remote else [tmp_path / "store" / "tmp"])
    for room in rooms:
        room.mkdir(parents=True)
        process, _ = begin(WORKS, room)
        process.kill()
        process.wait()
    assert store.remove_leftovers() == len(rooms)
    assert [list(room.iterdir()) for room in rooms] == [[]] * len(rooms)


def test_a_folder_that_cannot_be_locked_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when too many files are open."""
    real: Callable[..., int] = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:
        if str(path).startswith(str(tmp_path)):
            raise OSError(24, "Too many open files")
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(UnusableFolder, match="too many files are open"),
        Staging(tmp_path).folder(),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_open_after_work_that_fails(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def produce(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise RuntimeError("no")

    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0  # noqa: PTH208
    for number in range(50):
        recipe = Recipe("base/checkpoint", code_version="1", config={"number": number})
        with pytest.raises(RuntimeError):
            store.materialize(recipe, produce)
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0  # noqa: PTH208
    assert after <= before
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not any((tmp_path / "claims").iterdir())
