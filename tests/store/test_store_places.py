import errno
import os
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tda_dagster.object_storage import ObjectStorageError, RemoteFiles
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


def place_on(fs: Any, cache_dir: Path) -> RemotePlace:
    return RemotePlace(RemoteFiles(fs, patience_s=0.5), "/root", cache_dir)


def test_create_waits_while_the_server_is_busy_with_the_same_name(tmp_path: Path) -> None:
    class Server(MemoryFileSystem):  # type: ignore[misc]
        busy = 2

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
            if mode == "create" and self.busy:
                self.busy -= 1
                raise OSError(errno.EBUSY, "A conflicting operation is under way")
            super().pipe_file(path, value, mode=mode)

    place = place_on(Server(global_store=False, skip_instance_cache=True), tmp_path)
    assert place.create("refs/x.json", b"first")
    assert not place.create("refs/x.json", b"second")
    assert place.read("refs/x.json") == b"first"


def test_an_upload_that_arrives_short_is_noticed(tmp_path: Path) -> None:
    class Server(MemoryFileSystem):  # type: ignore[misc]
        def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
            super().pipe_file(path, value[:-1])

    place = place_on(Server(global_store=False, skip_instance_cache=True), tmp_path)
    (tmp_path / "file").write_bytes(b"1234")
    with pytest.raises(ObjectStorageError, match=r"root/cas/x: .* other bytes than were sent"):
        place.adopt("cas/x", tmp_path / "file")
