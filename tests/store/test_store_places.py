import errno
import os
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tda_dagster.store import ArtifactStore, StoreError
from tda_dagster.store.places import LocalPlace, RemotePlace


def test_opening_a_store_writes_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}/store", cache_dir=tmp_path / "cache")
    assert store.heads() == []
    assert list(store.refs()) == []
    assert store.verify() == []
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_nothing_can_open_is_named() -> None:
    with pytest.raises(StoreError, match="nosuch://x"):
        ArtifactStore("nosuch://x")


def test_blobs_are_read_only_and_a_store_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(tmp_path)
    assert store.local_file(store.put_bytes(b"x")).stat().st_mode & 0o222 == 0

    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match="hard links"):
        LocalPlace(tmp_path).create("refs/x.json", b"{}")


def test_create_understands_servers_that_only_say_precondition_failed(tmp_path: Path) -> None:
    class Server(MemoryFileSystem):  # type: ignore[misc]
        busy = 2

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
            if mode == "create" and (self.exists(path) or self.busy):
                self.busy = max(0, self.busy - 1)
                raise OSError(errno.EINVAL, "At least one of the pre-conditions did not hold")
            super().pipe_file(path, value, mode="overwrite")

    place = RemotePlace(Server(global_store=False, skip_instance_cache=True), "/root", tmp_path)
    assert place.create("refs/x.json", b"first")
    assert not place.create("refs/x.json", b"second")
    assert place.read("refs/x.json") == b"first"


def test_a_short_upload_is_noticed(tmp_path: Path) -> None:
    class Server(MemoryFileSystem):  # type: ignore[misc]
        def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
            super().pipe_file(rpath, Path(lpath).read_bytes()[:-1])

    place = RemotePlace(Server(global_store=False, skip_instance_cache=True), "/root", tmp_path)
    (tmp_path / "file").write_bytes(b"1234")
    with pytest.raises(StoreError, match="has 3 bytes after an upload of 4"):
        place.adopt("cas/x", tmp_path / "file")
