"""A store on a real S3 server, behind a network that fails in every way we know."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy
from s3_server import (
    ACCESS_KEY,
    CLERK_ACCESS_KEY,
    CLERK_SECRET_KEY,
    SECRET_KEY,
    S3Server,
    enter,
)

from tda_dagster.errors import TdaError
from tda_dagster.object_storage import ObjectStorageError
from tda_dagster.store import ArtifactStore, CorruptArtifact, CorruptRecord, Recipe, digest_of
from tda_dagster.store.snapshots import add_snapshot, list_snapshots, read_snapshot
from tda_dagster.store.verification import verify_needed

pytestmark = pytest.mark.slow

LARGE = 40_000_000  # travels in five parts


def recipe(number: int = 0) -> Recipe:
    return Recipe("base/checkpoint", code_version="1", config={"number": number})


def writes(data: bytes) -> Callable[[Path], None]:
    def produce(folder: Path) -> None:
        (folder / "weights").write_bytes(data)

    return produce


@pytest.fixture
def proxy(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, s3_root: str
) -> Iterator[FaultyProxy]:
    """A faulty network to the server, which the environment of the test points to."""
    proxy = FaultyProxy(s3_server.port)
    enter(monkeypatch, s3_server.environment(proxy.endpoint))
    yield proxy
    proxy.close()


class Study:
    """One prefix, opened by any number of stores, each with a cache of its own."""

    def __init__(self, root: str, folder: Path, fs: Any) -> None:
        self.root = root
        self.fs = fs
        self._folder = folder
        self._opened = 0

    def open(self, patience_s: float = 20.0, **options: Any) -> ArtifactStore:
        self._opened += 1
        cache = self._folder / f"cache{self._opened}"
        return ArtifactStore(self.root, cache_dir=cache, patience_s=patience_s, **options)

    def files(self, folder: str = "") -> list[str]:
        base = self.root.removeprefix("s3://")
        return [path[len(base) + 1 :] for path in self.fs.find(f"{base}/{folder}".rstrip("/"))]

    def damage(self, digest: str) -> None:
        path = f"{self.root}/{name_of(digest)}"
        data = bytearray(self.fs.cat_file(path))
        data[len(data) // 2] ^= 1
        self.fs.pipe_file(path, bytes(data))


@pytest.fixture
def study(s3_root: str, s3_server: S3Server, tmp_path: Path) -> Study:
    return Study(s3_root, tmp_path, s3_server.filesystem())


def name_of(digest: str) -> str:
    return f"cas/sha256/{digest[:2]}/{digest}"


# What may pass


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("status", {"status": 500}),
        ("after", {"status": 503}),
        ("reset", {}),
    ],
)
@pytest.mark.parametrize("method", ["HEAD", "GET", "PUT"])
def test_requests_that_fail_for_a_while_are_made_again(
    proxy: FaultyProxy, study: Study, kind: str, how: dict[str, Any], method: str
) -> None:
    fault = proxy.add(kind, method, times=3, **how)
    made = study.open().materialize(recipe(), writes(b"weights"))
    assert study.open().head("base/checkpoint") == made.ref
    assert study.open().artifact(made.ref.digest).read_bytes("weights") == b"weights"
    assert study.open().materialize(recipe(), writes(b"other")).cached
    assert study.open().verify() == []
    assert fault.struck == 3


def test_a_listing_that_fails_for_a_while_is_made_again(proxy: FaultyProxy, study: Study) -> None:
    made = study.open().materialize(recipe(), writes(b"weights"))
    fault = proxy.add("status", "GET", "list-type=2", times=3)
    assert list(study.open().refs()) == [made.ref]
    assert fault.struck == 3


@pytest.mark.parametrize("kind", ["truncate", "flip"])
@pytest.mark.parametrize("size", [1000, LARGE])
def test_a_blob_that_comes_wrong_is_fetched_again(
    proxy: FaultyProxy, study: Study, kind: str, size: int
) -> None:
    data = os.urandom(size)
    digest = study.open().put_bytes(data)
    reads: list[Callable[[ArtifactStore], object]] = [
        lambda store: store.read_bytes(digest) == data,
        lambda store: store.local_file(digest).read_bytes() == data,
    ]
    for read in reads:
        fault = proxy.add(kind, "GET", digest, times=2)
        assert read(study.open())
        assert fault.struck == 2


def test_a_blob_that_keeps_coming_wrong_is_refused(proxy: FaultyProxy, study: Study) -> None:
    digest = study.open().put_bytes(b"x" * 1000)
    proxy.add("flip", "GET", digest, times=100)
    store = study.open()
    for read in (store.read_bytes, store.local_file):
        with pytest.raises(CorruptArtifact, match=f"{study.root}/{name_of(digest)}"):
            read(digest)
    assert not any((Path(store._place.staging._root).parent / "cas").rglob("*"))


@pytest.mark.parametrize("size", [1000, LARGE])
def test_bytes_that_change_on_their_way_there_do_not_stay(
    proxy: FaultyProxy, study: Study, size: int
) -> None:
    data = os.urandom(size)
    fault = proxy.add("flip request", "PUT", digest_of(data))
    assert study.open().put_bytes(data) == digest_of(data)
    assert fault.struck == 1
    assert study.fs.cat_file(f"{study.root}/{name_of(digest_of(data))}") == data


def test_a_server_that_falls_silent_is_asked_again(proxy: FaultyProxy, study: Study) -> None:
    digest = study.open().put_bytes(b"x")
    fault = proxy.add("delay", "GET", digest, seconds=3.0)
    assert study.open(patience_s=1.0).read_bytes(digest) == b"x"
    assert fault.struck == 1


def test_patience_ends(proxy: FaultyProxy, study: Study, caplog: pytest.LogCaptureFixture) -> None:
    proxy.add("status", "PUT", times=10_000, status=503)
    start = time.monotonic()
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(ObjectStorageError, match=r"HTTP 503.*tried for 1 s") as caught,
    ):
        study.open(patience_s=1.0).put_bytes(b"x")
    assert time.monotonic() - start < 10
    assert f"{study.root}/{name_of(digest_of(b'x'))}" in str(caught.value)
    assert "it is tried again" in caplog.text
    assert caught.value.may_pass
    assert study.files() == []


# Large blobs


def test_a_large_blob_travels_in_parts(proxy: FaultyProxy, study: Study) -> None:
    data = os.urandom(LARGE)
    digest = study.open().put_bytes(data)
    assert proxy.count("PUT", "partNumber=") == 5
    proxy.requests.clear()
    assert study.open().local_file(digest).read_bytes() == data
    assert proxy.count("GET", digest) == 5
    assert study.open().read_bytes(digest) == data


@pytest.mark.parametrize("kind", ["status", "reset"])
def test_an_upload_in_parts_survives_the_failure_of_some(
    proxy: FaultyProxy, study: Study, kind: str
) -> None:
    data = os.urandom(LARGE)
    proxy.add(kind, "PUT", "partNumber=3", times=2)
    proxy.add(kind, "POST", "uploadId=")
    digest = study.open().put_bytes(data)
    assert study.fs.cat_file(f"{study.root}/{name_of(digest)}") == data


def test_an_upload_in_parts_that_fails_leaves_nothing(proxy: FaultyProxy, study: Study) -> None:
    proxy.add("status", "PUT", "partNumber=4", times=10_000)
    with pytest.raises(ObjectStorageError, match="HTTP 500"):
        study.open(patience_s=0.5).put_bytes(os.urandom(LARGE))
    assert study.files() == []
    assert proxy.count("DELETE", "uploadId=") > 0  # nor parts that cost money


# What does not pass


def one_line(error: BaseException) -> str:
    """The error's message, which must be one line, and nothing in its traceback be secret."""
    text = "".join(traceback.format_exception(error))
    assert SECRET_KEY not in text
    assert CLERK_SECRET_KEY not in text
    assert "Signature=" not in text
    message = str(error)
    assert isinstance(error, TdaError)
    assert ACCESS_KEY not in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, ["AWS_SECRET_ACCESS_KEY", "profile"]),
        ({"AWS_ACCESS_KEY_ID": "unknown"}, ["AWS_ACCESS_KEY_ID", "profile"]),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, ["no credentials are found"]),
        ({"AWS_PROFILE": "nobody", "AWS_ACCESS_KEY_ID": ""}, ["profile", "~/.aws/config"]),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, ["http://127.0.0.1:9", "tried for 0.5 s"]),
        (
            {"AWS_ENDPOINT_URL_S3": "127.0.0.1"},
            ["store.endpoint_url", "'127.0.0.1' is no endpoint"],
        ),
        (
            {"AWS_ENDPOINT_URL_S3": f"http://me:{SECRET_KEY}@127.0.0.1:9"},
            ["store.endpoint_url", "carries credentials"],
        ),
    ],
    ids=["secret", "key", "none", "profile", "unreachable", "no-endpoint", "secret-endpoint"],
)
def test_what_cannot_work_is_said_in_a_line(
    study: Study,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    words: list[str],
) -> None:
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # connections are kept for equal options
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    uses: list[Callable[[ArtifactStore], object]] = [
        lambda store: store.materialize(recipe(), writes(b"x")),
        lambda store: store.find(recipe()),
        lambda store: store.heads(),
        lambda store: store.read_bytes(digest_of(b"x")),
        lambda store: store.verify(),
    ]
    try:
        for use in uses:
            start = time.monotonic()
            with pytest.raises(ObjectStorageError) as caught:
                use(study.open(patience_s=0.5))
            message = one_line(caught.value)
            for word in words:
                assert word in message
            assert time.monotonic() - start < 10
    finally:
        S3FileSystem.clear_instance_cache()


def test_a_bucket_that_does_not_exist_is_named(
    s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", CLERK_ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CLERK_SECRET_KEY)
    store = ArtifactStore("s3://no-such-bucket/store", cache_dir=tmp_path)
    uses: list[Callable[[], object]] = [
        store.heads,
        lambda: store.find(recipe()),
        lambda: store.put_bytes(b"x"),
        lambda: store.read_bytes(digest_of(b"x")),
    ]
    try:
        for use in uses:
            with pytest.raises(
                ObjectStorageError, match=r"s3://no-such-bucket at .*no such bucket"
            ):
                use()
    finally:
        S3FileSystem.clear_instance_cache()


def test_a_root_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(ObjectStorageError) as caught:
        ArtifactStore(f"s3://key:{SECRET_KEY}@bucket/store")
    assert "carries credentials" in one_line(caught.value)


def test_no_secret_is_stored(study: Study, tmp_path: Path) -> None:
    study.open().materialize(recipe(), writes(b"weights"), run_id="run")
    for name in study.files():
        data = study.fs.cat_file(f"{study.root}/{name}")
        assert ACCESS_KEY.encode() not in data
        assert SECRET_KEY.encode() not in data
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET_KEY.encode() not in path.read_bytes()


# Damage where it is kept


def test_a_flipped_byte_in_the_store_is_found_and_refused(study: Study) -> None:
    made = study.open().materialize(recipe(), writes(os.urandom(1000)))
    entry = made.artifact.files["weights"]
    study.damage(entry.digest)
    (problem,) = study.open().verify()
    assert (problem.kind, problem.asset, problem.entry) == ("corrupt", "base/checkpoint", "weights")
    assert problem.path == f"{study.root}/{name_of(entry.digest)}"
    artifact = study.open().artifact(made.ref.digest)
    for read in (artifact.read_bytes, artifact.path):
        with pytest.raises(CorruptArtifact, match=entry.digest):
            read("weights")


def test_verify_does_not_take_an_unreachable_store_for_a_damaged_one(
    proxy: FaultyProxy, study: Study
) -> None:
    made = study.open().materialize(recipe(), writes(b"weights"))
    proxy.add("status", "GET", made.artifact.files["weights"].digest, times=10_000)
    with pytest.raises(ObjectStorageError, match="HTTP 500"):
        study.open(patience_s=0.5).verify()


@pytest.mark.parametrize("kind", ["flip", "truncate"])
@pytest.mark.parametrize("folder", ["refs", "heads", "snapshots"])
def test_a_record_that_comes_wrong_is_read_again(
    proxy: FaultyProxy, study: Study, folder: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = study.open().materialize(recipe(), writes(b"weights"))
    add_snapshot(study.open(), "v1")
    uses: dict[str, list[Callable[[ArtifactStore], object]]] = {
        "refs": [
            lambda store: store.find(recipe()) == made.ref,
            lambda store: list(store.refs()) == [made.ref],
            lambda store: store.heads() == [made.ref],
            lambda store: store.materialize(recipe(), writes(b"other")).cached,
        ],
        "heads": [
            lambda store: store.head("base/checkpoint") == made.ref,
            lambda store: store.heads() == [made.ref],
            lambda store: store.partitions("base/checkpoint") == [""],
            lambda store: verify_needed(store) == [],
        ],
        "snapshots": [
            lambda store: list_snapshots(store)[0].name == "v1",
            lambda store: read_snapshot(store, "v1").pins[0].digest == made.ref.digest,
            lambda store: verify_needed(store) == [],
        ],
    }
    (name,) = study.files(folder)
    for use in uses[folder]:
        fault = proxy.add(kind, "GET", name, times=2)
        assert use(study.open())
        assert fault.struck == 2
    assert "damaged" not in caplog.text


def test_a_record_that_keeps_coming_wrong_is_named(proxy: FaultyProxy, study: Study) -> None:
    study.open().materialize(recipe(), writes(b"weights"))
    (name,) = study.files("refs")
    fault = proxy.add("flip", "GET", name, times=100)
    with pytest.raises(CorruptRecord, match=f"{study.root}/{name}") as caught:
        study.open().find(recipe())
    assert fault.struck == 3
    one_line(caught.value)


@pytest.mark.parametrize("size", [1000, LARGE])
def test_putting_a_blob_again_mends_it_without_reading_what_is_whole(
    proxy: FaultyProxy, study: Study, size: int
) -> None:
    data = os.urandom(size)
    digest = study.open().put_bytes(data)
    study.open().put_bytes(data)
    assert proxy.count("GET", digest) == 0  # the server's tag is proof enough
    study.damage(digest)
    study.open().put_bytes(data)
    assert study.fs.cat_file(f"{study.root}/{name_of(digest)}") == data


# Crashes and races


KILLED_BEFORE_THE_REF = """
import os, signal, sys
from pathlib import Path
from tda_dagster.store import ArtifactStore, Recipe
from tda_dagster.store.refs import RefBook

RefBook.create = lambda self, ref: os.kill(os.getpid(), signal.SIGKILL)
recipe = Recipe("base/checkpoint", code_version="1", config={"number": 0})
store = ArtifactStore(sys.argv[1], cache_dir=Path(sys.argv[2]))
store.materialize(recipe, lambda folder: (folder / "weights").write_bytes(b"weights"))
"""


def test_killed_between_blob_and_ref(study: Study, tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_THE_REF, study.root, str(tmp_path / "cache")],
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert name_of(digest_of(b"weights")) in study.files("cas")
    store = study.open()
    assert store.find(recipe()) is None
    assert store.heads() == [] == list(store.refs())
    assert store.verify() == []
    made = store.materialize(recipe(), writes(b"weights"))
    assert not made.cached
    assert store.verify() == []


def test_killed_in_the_midst_of_an_upload(proxy: FaultyProxy, study: Study, tmp_path: Path) -> None:
    """The parts that arrived are not a blob."""
    proxy.add("delay", "PUT", "partNumber=2", seconds=60.0)
    code = (
        "import sys; from pathlib import Path; from tda_dagster.store import ArtifactStore;"
        f"store = ArtifactStore(sys.argv[1], cache_dir=Path(sys.argv[2]));"
        f"store.put_bytes(bytes({LARGE}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, study.root, str(tmp_path / "cache")]
    ) as process:
        while proxy.count("PUT", "partNumber=") < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    assert study.files() == []
    digest = study.open().put_bytes(bytes(LARGE))
    assert study.open().read_bytes(digest) == bytes(LARGE)


def race(root: str, cache: str, number: int, start: Barrier) -> list[str]:
    store = ArtifactStore(root, cache_dir=Path(cache))
    start.wait()
    made = [store.materialize(recipe(i), writes(b"%d %d" % (i, number))) for i in range(5)]
    return [m.artifact.read_bytes("weights").decode() for m in made]


def test_of_two_processes_with_the_same_recipes_one_wins_and_both_read_the_same(
    study: Study, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(2) as pool:
        start = manager.Barrier(2)
        jobs = [(study.root, str(tmp_path / f"cache-{n}"), n, start) for n in range(2)]
        one, other = pool.starmap(race, jobs, chunksize=1)
    assert one == other
    store = study.open()
    assert len(list(store.refs())) == 5
    for i, text in enumerate(one):
        ref = store.find(recipe(i))
        assert ref is not None
        assert store.artifact(ref.digest).read_bytes("weights").decode() == text
    assert store.verify() == []


def test_of_many_creates_of_one_ref_exactly_one_wins(study: Study) -> None:
    place = study.open(transfers=8)._place
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: place.create("refs/race.json", b"%d" % n), range(8)))
    assert sum(answers) == 1
    assert place.read("refs/race.json") == b"%d" % answers.index(True)


def test_a_create_whose_answer_is_lost_is_not_made_twice(proxy: FaultyProxy, study: Study) -> None:
    """The server has done it, and says so only to the second attempt."""
    proxy.add("after", "PUT", "refs/", times=1)
    store = study.open()
    made = store.materialize(recipe(), writes(b"weights"))
    assert store.find(recipe()) == made.ref
    assert len(list(store.refs())) == 1
