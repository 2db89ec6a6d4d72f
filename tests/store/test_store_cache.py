import os
import time
from pathlib import Path

import pytest
from s3_server import S3Server

from tda_dagster.store import ArtifactStore, digest_of
from tda_dagster.store.cache import LENT_S, FileCache

SIZE = 100_000


def copies(cache: Path) -> set[str]:
    return {path.name for path in (cache / "cas").rglob("*") if path.is_file()}


def age(cache: Path, digest: str, seconds: float) -> None:
    """As if the copy had last been asked for that long ago."""
    path = cache / "cas" / "sha256" / digest[:2] / digest
    os.utime(path, (time.time() - seconds, path.stat().st_mtime))


@pytest.fixture
def bodies() -> list[bytes]:
    return [bytes([number]) * SIZE for number in range(6)]


def test_the_cache_keeps_below_its_limit_and_loses_what_was_not_used_for_longest(
    s3_root: str, tmp_path: Path, bodies: list[bytes]
) -> None:
    digests = [digest_of(body) for body in bodies]
    writer = ArtifactStore(s3_root, cache_dir=tmp_path / "writer")
    for body in bodies:
        writer.put_bytes(body)
    cache = tmp_path / "cache"
    store = ArtifactStore(s3_root, cache_dir=cache, cache_bytes=3 * SIZE)
    for number, digest in enumerate(digests[:3]):
        store.local_file(digest)
        age(cache, digest, 3 * LENT_S - number)
    store.local_file(digests[0])  # the oldest is now the youngest
    age(cache, digests[0], 2 * LENT_S)
    store.local_file(digests[3])
    assert copies(cache) == {digests[0], digests[2], digests[3]}
    store.local_file(digests[4])
    assert copies(cache) == {digests[0], digests[3], digests[4]}
    for digest, body in zip(digests, bodies, strict=True):
        assert store.local_file(digest).read_bytes() == body


def test_a_path_just_given_out_stays_whatever_the_limit(
    s3_root: str, tmp_path: Path, bodies: list[bytes]
) -> None:
    store = ArtifactStore(s3_root, cache_dir=tmp_path, cache_bytes=SIZE)
    paths = [store.local_file(store.put_bytes(body)) for body in bodies]
    assert [path.read_bytes() for path in paths] == bodies
    for path in paths:
        age(tmp_path, path.name, 2 * LENT_S)
    file = paths[1].open("rb")
    last = store.local_file(store.put_bytes(b"x" * SIZE))
    assert copies(tmp_path) == {last.name}
    assert file.read() == bodies[1]  # an open file outlives its name
    file.close()


def test_what_was_put_is_read_without_a_download(
    s3_root: str, s3_server: S3Server, tmp_path: Path
) -> None:
    store = ArtifactStore(s3_root, cache_dir=tmp_path)
    digest = store.put_bytes(b"x" * SIZE)
    s3_server.filesystem().rm(s3_root, recursive=True)
    assert store.local_file(digest).read_bytes() == b"x" * SIZE


def test_without_a_limit_nothing_goes(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, "cas", None)
    for number in range(3):
        with cache.place.staging.folder() as folder:
            (folder / "file").write_bytes(b"x" * 1000)
            cache.keep(f"cas/{number}", folder / "file")
        os.utime(tmp_path / "cas" / str(number), (0, 0))
    assert len(copies(tmp_path)) == 3


def test_a_file_that_somebody_else_evicted_is_not_lent(tmp_path: Path) -> None:
    assert FileCache(tmp_path, "cas", 1000).lend("cas/none") is None
