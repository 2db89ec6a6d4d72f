"""What a disk refuses is said in one line, and costs nothing that was computed before."""

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tda_dagster.errors import TdaError
from tda_dagster.store import ArtifactStore, FullDisk, Recipe, UnusableFolder
from tda_dagster.store.disk import disk_errors, full_disk, require_folder

DISK_BYTES = 2 << 20


def recipe(number: int = 0) -> Recipe:
    return Recipe("base/checkpoint", code_version="1", config={"number": number})


def writes(size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / "weights").write_bytes(os.urandom(size)) and None


def one_line(error: BaseException, *words: str) -> None:
    message = str(error)
    assert isinstance(error, TdaError)
    assert "\n" not in message
    assert "Error" not in message
    for word in words:
        assert word in message


# Roots that are no folders


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file"


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "study" / "store"


def a_broken_link(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "nowhere")
    return folder / "link"


@pytest.mark.parametrize("make", [a_file, below_a_file, a_broken_link])
def test_a_root_that_is_no_folder_is_named(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    root = make(tmp_path)
    with pytest.raises(UnusableFolder) as caught:
        ArtifactStore(root)
    obstacle = root if make is not below_a_file else tmp_path / "file"
    one_line(caught.value, f"{obstacle}: it is a", "choose another folder")


@pytest.mark.parametrize("make", [a_file, below_a_file, a_broken_link])
@pytest.mark.parametrize("remote", [False, True])
def test_a_cache_that_is_no_folder_is_named(
    tmp_path: Path, make: Callable[[Path], Path], remote: bool
) -> None:
    root = f"memory://{tmp_path}" if remote else str(tmp_path / "store")
    cache = make(tmp_path)
    store = ArtifactStore(root, cache_dir=cache)
    with pytest.raises(UnusableFolder) as caught:
        store.plain_folder(store.materialize(recipe(), writes(10)).artifact)
    one_line(caught.value, str(cache if make is not below_a_file else tmp_path / "file"))


def test_a_root_that_others_make_meanwhile_is_not_mistaken_for_a_file(tmp_path: Path) -> None:
    """The store is opened again and again while another thread makes and removes its root."""
    root, done = tmp_path / "store", threading.Event()

    def make_and_remove() -> None:
        while not done.is_set():
            root.mkdir()
            root.rmdir()

    other = threading.Thread(target=make_and_remove)
    other.start()
    try:
        for _ in range(5000):
            require_folder(root)
    finally:
        done.set()
        other.join()


def test_a_root_that_became_a_file_is_named(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    a_file(tmp_path).rename(tmp_path / "store")
    for use in (
        lambda: store.materialize(recipe(), writes(10)),
        lambda: store.find(recipe()),
        store.heads,
        store.verify,
    ):
        with pytest.raises(UnusableFolder, match=f"{tmp_path / 'store'}: it is a file"):
            use()


# Folders that may not be written, or read

AS_NOBODY = """
import os, sys
from pathlib import Path
from tda_dagster.errors import TdaError
from tda_dagster.store import ArtifactStore, Recipe

if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
root, cache = Path(sys.argv[1]), Path(sys.argv[2])
store = ArtifactStore(root, cache_dir=cache)
recipes = [Recipe("base/checkpoint", code_version="1", config={"number": n}) for n in range(2)]
write = lambda folder: (folder / "weights").write_bytes(b"weights")
def told(use):
    try:
        print("done", use())
    except TdaError as error:
        print(error)
told(lambda: store.materialize(recipes[0], write).cached)
told(lambda: store.artifact(store.heads()[0].digest).read_bytes("weights"))
told(lambda: store.materialize(recipes[1], write).cached)
told(lambda: store.plain_folder(store.artifact(store.heads()[0].digest)))
told(lambda: store.remove_leftovers())
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=True)
    shutil.rmtree(folder)


def as_nobody(folder: Path) -> list[str]:
    command = [sys.executable, "-c", AS_NOBODY, str(folder / "store"), str(folder / "cache")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return answer.stdout.splitlines()


def test_a_read_only_store_gives_what_it_has_and_names_what_it_cannot_take(
    open_folder: Path,
) -> None:
    store = ArtifactStore(open_folder / "store")
    store.materialize(recipe(), lambda f: (f / "weights").write_bytes(b"weights") and None)
    (open_folder / "cache").mkdir()
    for path in [open_folder, *open_folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    found, read, made, copied, left = as_nobody(open_folder)
    assert (found, read, left) == ("done True", "done b'weights'", "done 0")
    assert made.startswith(f"{open_folder / 'store' / 'tmp'}: access is denied. Give this user")
    assert copied.startswith(f"{open_folder / 'cache'}: access is denied. Give this user")
    assert len(list(ArtifactStore(open_folder / "store").refs())) == 1


def test_a_store_that_may_not_be_read_is_not_an_empty_one(open_folder: Path) -> None:
    store = ArtifactStore(open_folder / "store")
    store.materialize(recipe(), writes(10))
    for name in ("refs/base", "heads/base", "cas/sha256"):
        (open_folder / "store" / name).chmod(0)
    for line in as_nobody(open_folder)[:4]:
        assert f"{open_folder / 'store'}" in line
        assert ": access is denied. Give this user the right to read" in line


# Full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def with_open(folder: Path) -> None:
    with (folder / "weights").open("wb") as file:
        for _ in range(5):
            file.write(os.urandom(1 << 20))


def with_safetensors(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(1_000_000)}, folder / "weights")


def with_polars(folder: Path) -> None:
    import numpy as np
    import polars as pl

    pl.DataFrame({"score": np.random.default_rng(0).random(1_000_000)}).write_parquet(
        folder / "scores"
    )


@pytest.mark.parametrize("produce", [with_open, with_safetensors, with_polars])
def test_a_full_disk_is_named_and_costs_nothing_that_was_made(
    small_disk: Path, produce: Callable[[Path], None]
) -> None:
    root = small_disk / "store"
    store = ArtifactStore(root, cache_dir=small_disk / "cache")
    made = [store.materialize(recipe(number), writes(200_000)).ref for number in range(3)]
    with pytest.raises(FullDisk) as caught:
        store.materialize(recipe(9), produce)
    one_line(caught.value, f"{root / 'tmp'}: the disk is full", "tda gc --delete", "again")
    assert list((root / "tmp").iterdir()) == []
    assert {ref.recipe.key for ref in store.refs()} == {ref.recipe.key for ref in made}
    assert ArtifactStore(root).find(recipe(9)) is None
    assert store.verify() == []
    assert ArtifactStore(root).materialize(recipe(1), produce).cached
    assert not store.materialize(recipe(10), writes(100_000)).cached


def test_whatever_does_not_fit_is_said_in_a_line_and_nothing_half_is_left(
    small_disk: Path, tmp_path: Path
) -> None:
    root = small_disk / "store"
    store = ArtifactStore(root, cache_dir=small_disk / "cache")
    artifact = store.materialize(recipe(), writes(1_200_000)).artifact
    uses: dict[str, Callable[[], object]] = {
        "store/tmp": lambda: store.put_bytes(bytes(1_500_000)),
        "cache": lambda: store.plain_folder(artifact),
        "out": lambda: artifact.export(small_disk / "out"),
    }
    for folder, use in uses.items():
        with pytest.raises(FullDisk) as caught:
            use()
        one_line(caught.value, f"{small_disk / folder}: the disk is full")
    assert not list((small_disk / "cache").glob("[0-9a-f]*"))
    assert list((small_disk / "out").iterdir()) == []
    assert list((small_disk / "cache" / "tmp").iterdir()) == []
    assert store.verify() == []
    shutil.rmtree(small_disk / "cache")
    moved = ArtifactStore(root, cache_dir=tmp_path / "cache")
    assert (moved.plain_folder(artifact) / "weights").stat().st_size == 1_200_000


def test_a_disk_that_fills_while_refs_and_claims_are_written(small_disk: Path) -> None:
    """As the last bytes go, one thing after the other does not fit; what is there stays right."""
    root = small_disk / "store"
    store = ArtifactStore(root)
    store.materialize(recipe(), writes(1000))
    filler, said = small_disk / "filler", set[str]()
    for free in range(10 * 4096, -1, -4096):
        used = sum(p.stat().st_blocks * 512 for p in root.rglob("*") if p.is_file())
        filler.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(max(0, DISK_BYTES - used - free)))
        try:
            store.materialize(recipe(free + 1), writes(100))
        except FullDisk as full:
            said.add(str(full))
        assert store.verify() == []
    assert said
    filler.unlink()
    assert store.verify() == []
    assert list((root / "tmp").iterdir()) == []
    assert list((root / "claims").rglob("*.json")) == []
    assert not store.materialize(recipe(-1), writes(100)).cached


def test_copies_make_room_for_a_blob_that_is_needed(small_disk: Path, tmp_path: Path) -> None:
    root = f"memory://{tmp_path}"
    writer = ArtifactStore(root, cache_dir=tmp_path / "writer")
    digests = [writer.put_bytes(os.urandom(700_000)) for _ in range(4)]
    store = ArtifactStore(root, cache_dir=small_disk)
    for number, digest in enumerate(digests):
        path = store.local_file(digest)
        assert path.stat().st_size == 700_000
        os.utime(path, (1000 + number, path.stat().st_mtime))  # not used for long
    assert len(list((small_disk / "cas").rglob("*/*/*"))) == 2
    for path in (small_disk / "cas").rglob("*/*/*"):
        os.utime(path)
    with pytest.raises(FullDisk):  # those in use stay
        store.local_file(digests[0])
    assert list((small_disk / "tmp").glob("*-*")) == []


LIMITED = """
import resource, sys
from pathlib import Path
from tda_dagster.errors import TdaError
from tda_dagster.store import ArtifactStore
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    ArtifactStore(sys.argv[1]).put_bytes(bytes(200_000))
except TdaError as error:
    print(error)
"""


def test_a_limit_on_files_is_told(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "store")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith(f"{tmp_path / 'store' / 'tmp'}: a file would become larger")
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


# The words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EIO, "the disk reports an error"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ETXTBSY, "cannot be used (Text file busy)"),
    ],
)
def test_errors_of_the_system_become_sentences(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(UnusableFolder) as caught, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    one_line(caught.value, str(tmp_path), words)


def test_what_is_not_there_and_what_is_no_disks_fault_come_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        (tmp_path / "none").read_bytes()
    for error in (PermissionError(errno.EACCES, "denied", "audio.wav"), ValueError("no")):
        with pytest.raises(type(error)), full_disk(tmp_path):
            raise error


def test_a_full_disk_is_recognised_in_the_errors_of_libraries(tmp_path: Path) -> None:
    def wrapped() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("writing failed") from error

    failures: list[Callable[[], Any]] = [wrapped]
    for text in ("I/O error: No space left on device (os error 28)", "x (os error 122)"):
        failures.append(lambda text=text: (_ for _ in ()).throw(RuntimeError(text)))
    for fail in failures:
        with pytest.raises(FullDisk), full_disk(tmp_path):
            fail()
