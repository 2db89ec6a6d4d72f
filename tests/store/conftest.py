"""Stores to test with: a folder on disk, fsspec's in-memory object store, and a real S3 server."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.core import url_to_fs
from s3_server import BUCKET, S3Server, enter, s3_server

from tda_dagster.store import ArtifactStore, Recipe

__all__ = ["s3_server"]


class Ground:
    """What lies under a store, for looking at it and doing it harm."""

    def __init__(self, root: str, cache_dir: Path) -> None:
        self.root = root
        self.cache_dir = cache_dir
        self.fs, self._base = url_to_fs(root, use_listings_cache=False)

    def open(self) -> ArtifactStore:
        return ArtifactStore(self.root, cache_dir=self.cache_dir)

    def files(self, folder: str = "") -> dict[str, bytes]:
        found = self.fs.find(f"{self._base}/{folder}", detail=True)
        # A server may go on listing a folder that has become empty.
        paths = [path for path, info in found.items() if info["type"] == "file"]
        return {path[len(self._base) + 1 :]: self.fs.cat_file(path) for path in paths}

    def overwrite(self, name: str, data: bytes) -> None:
        self.remove(name)
        self.fs.pipe_file(f"{self._base}/{name}", data)

    def remove(self, name: str) -> None:
        self.fs.rm_file(f"{self._base}/{name}")

    def damage(self, digest: str) -> str:
        """Flip one bit of a blob; returns the blob's name."""
        name = blob(digest)
        data = bytearray(self.files()[name])
        data[len(data) // 2] ^= 1
        self.overwrite(name, bytes(data))
        return name


def blob(digest: str) -> str:
    return f"cas/sha256/{digest[:2]}/{digest}"


@pytest.fixture
def s3_root(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new prefix on the S3 server, in whose environment the test runs."""
    enter(monkeypatch, s3_server.environment())
    return f"s3://{BUCKET}/{uuid.uuid4()}"


@pytest.fixture(params=["local", "memory", "s3"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    match request.param:
        case "local":
            place = str(tmp_path / "store")
        case "memory":
            place = f"memory://{uuid.uuid4()}"
        case _:
            place = request.getfixturevalue("s3_root")
    ground = Ground(place, tmp_path / "cache")
    yield ground
    if ground.files():
        ground.fs.rm(ground.root, recursive=True)


@pytest.fixture
def store(ground: Ground) -> ArtifactStore:
    return ground.open()


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    def make(asset: str = "dataset/index", **fields: Any) -> Recipe:
        return Recipe(asset, **{"code_version": "1", "config": {"rate": 0.1}, **fields})

    return make


@pytest.fixture
def writes() -> Callable[..., Callable[[Path], None]]:
    """`writes(**{"name": text})` is a `produce` that writes these files and counts its calls."""

    def make(**files: str) -> Callable[[Path], None]:
        def produce(folder: Path) -> None:
            produce.calls += 1  # type: ignore[attr-defined]
            for name, text in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, "utf-8", newline="")

        produce.calls = 0  # type: ignore[attr-defined]
        return produce

    return make
