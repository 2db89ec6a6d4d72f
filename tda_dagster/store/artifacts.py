"""The artifact store: the one place where computed things are kept, found and made.

What belongs here: what the rest of the house calls. How blobs, trees, refs and walks work is said
in the modules beside this one.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from tda_dagster.errors import TdaError
from tda_dagster.object_storage import PATIENCE_S, TRANSFERS
from tda_dagster.store import lineage
from tda_dagster.store.blobs import open_blobs
from tda_dagster.store.claims import Claims
from tda_dagster.store.disk import full_disk
from tda_dagster.store.errors import CorruptArtifact, CorruptRecord, MissingArtifact
from tda_dagster.store.places import open_place
from tda_dagster.store.plain_folders import PlainFolders
from tda_dagster.store.refs import Recipe, Ref, RefBook, in_words
from tda_dagster.store.trees import (
    Artifact,
    Entry,
    files_below,
    of_artifact,
    read_artifact,
    tree_bytes,
)

RENEW_AFTER = timedelta(hours=1)
"""A ref that is found again counts as new from then on, once it is older than this. Collections
with a longer grace period spare what work under way has found."""

_log = logging.getLogger(__name__)

Read = TypeVar("Read")


@dataclass(frozen=True)
class Materialized:
    """What `materialize` returns: `cached` says that nothing had to be computed here."""

    ref: Ref
    cached: bool
    artifact: Artifact


class ArtifactStore:
    """Content-addressed blobs, artifacts made of them, and refs from recipes to artifacts.

    `root` is a local path or any fsspec URL (s3://bucket/prefix) with the credentials that fsspec
    finds (`object_storage.export_settings` says where an S3 server is). Opening a store writes
    nothing.

    Of a remote store, `cache_dir` holds work in progress and copies of blobs, up to `cache_bytes`
    of them (None: no limit; those used within the last ten minutes always stay); `transfers`
    requests are made at a time, and one that fails is tried again for `patience_s` seconds. Then,
    and at once where waiting would not help, it raises `ObjectStorageError`.

    Processes and machines may share a store: nothing is visible before it is complete, of those
    who commit the same recipe the first wins, and of those who materialize it one computes.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        cache_dir: Path | None = None,
        cache_bytes: int | None = None,
        transfers: int = TRANSFERS,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.root = os.fspath(root)
        cache_dir = Path(cache_dir or _default_cache_dir())
        self._place = open_place(self.root, cache_dir, transfers, patience_s)
        self._blobs = open_blobs(self._place, cache_dir, cache_bytes)
        self._refs = RefBook(self._place)
        self._claims = Claims(self._place)
        self._folders = PlainFolders(cache_dir)
        self._renewed: dict[str, datetime] = {}

    # Blobs

    def put_bytes(self, data: bytes) -> str:
        """Store `data` as a blob; returns its digest."""
        return self._blobs.put_bytes(data)

    def put_file(self, path: Path) -> tuple[str, int]:
        """Store a copy of the file as a blob; returns its digest and size in bytes."""
        return self._blobs.put_file(path)

    def read_bytes(self, digest: str) -> bytes:
        """A blob's bytes, verified. Raises `CorruptArtifact` or `MissingArtifact`."""
        return self._blobs.read_bytes(digest)

    def local_file(self, digest: str) -> Path:
        """A local path of a blob, for reading only, verified when first asked for and whenever
        the file has changed since. In a remote store's cache it stays for at least ten minutes:
        open it, or ask again. Raises `CorruptArtifact` or `MissingArtifact`."""
        return self._blobs.local_file(digest)

    # Artifacts

    def put_tree(self, folder: Path) -> str:
        """Store every file below `folder` as one artifact; returns its digest."""
        return self._put_tree(folder, self._blobs.put_file)

    def artifact(self, digest: str) -> Artifact:
        """The artifact with `digest`."""
        return read_artifact(self._blobs, digest, lambda: self._refs.maker(digest))

    def plain_folder(self, artifact: Artifact) -> Path:
        """A folder in the cache with the files of `artifact` under their names and nothing else,
        for reading only. It is compared with the artifact when this process first asks for it, and
        whenever it has changed; what differs is written again."""
        return self._folders.folder(artifact)

    # Refs and heads

    def find(self, recipe: Recipe) -> Ref | None:
        """The ref that answers `recipe`, if there is one."""
        return self._refs.find(recipe)

    def commit(
        self, recipe: Recipe, digest: str, *, run_id: str, device: str, seconds: float
    ) -> Ref:
        """Record that `recipe` gave the artifact `digest`, after making sure that it is whole.

        Returns the ref that holds: another one if somebody was first. If that one names other
        bytes, the recipe does not determine its result, which is logged as a warning. A ref whose
        artifact has been lost gives way.
        """
        artifact = self.artifact(digest)
        sizes = {entry.digest: entry.size for entry in artifact.files.values()}
        self._blobs.each(lambda blob: self._blobs.confirm(blob, sizes[blob]), sizes)
        ours = Ref(
            recipe=recipe,
            digest=digest,
            size_bytes=artifact.size_bytes,
            run_id=run_id,
            device=device,
            seconds=seconds,
            created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        )
        held = self._refs.create(ours)
        if held.digest == digest:
            return held
        if self._whole(held) is None:
            self._refs.replace(ours)
            return ours
        _log.warning(
            "%s [%s] is not deterministic: recipe %s gave %s in run %r on %s and now gives %s in "
            "run %r on %s; the first stays",
            recipe.asset, recipe.partition, recipe.key, held.digest, held.run_id, held.device,
            digest, run_id, device,
        )  # fmt: skip
        return held

    def set_head(self, ref: Ref) -> None:
        """Make `ref` the live one of its asset and partition."""
        self._refs.set_head(ref)

    def head(self, asset: str, partition: str = "") -> Ref | None:
        """The live ref of an asset and partition."""
        return self._refs.head(asset, partition)

    def heads(self) -> list[Ref]:
        """All live refs, by asset and partition."""
        return self._refs.heads()

    def refs(self) -> Iterator[Ref]:
        """All refs, live or not, in a fixed order."""
        return self._refs.refs()

    def partitions(self, asset: str) -> list[str]:
        """The partitions of `asset` that have a head, sorted ("" for an unpartitioned asset)."""
        return self._refs.partitions(asset)

    # Computing

    def materialize(
        self,
        recipe: Recipe,
        produce: Callable[[Path], None],
        *,
        run_id: str = "",
        device: str = "cpu",
        head: bool = True,
        spent_s: Callable[[], float] = lambda: 0.0,
    ) -> Materialized:
        """The artifact of `recipe`: found, or made by `produce`, which writes its files into the
        empty folder that it is given. The ref says how long that took; `spent_s` is asked
        afterwards what parts that were found made took before, which is added.

        If somebody else is making it, waits for that; should they fail or die, it is made here.
        Makes the ref the live one if `head`. Whatever `produce` raises comes through and leaves
        nothing behind; a full disk raises `FullDisk`, whatever library met it. A ref whose artifact
        is no longer whole, or was found damaged, is treated as missing.
        """
        made = self._found(recipe)
        if made is None:
            with self._claims.turn(recipe, run_id, lambda: self._found(recipe)) as found:
                made = found or self._make(recipe, produce, run_id, device, spent_s)
        if head:
            self.set_head(made.ref)
        return made

    def materialize_and_read(
        self,
        recipe: Recipe,
        produce: Callable[[Path], None],
        read: Callable[[Artifact], Read],
        *,
        run_id: str = "",
    ) -> tuple[Read, Materialized]:
        """What `read` returns for the artifact of `recipe`, and the artifact, which does not become
        live. As `materialize`, but if a file that is read turns out to be damaged or lost, the
        artifact is computed again at once."""
        made = self.materialize(recipe, produce, run_id=run_id, head=False)
        try:
            return read(made.artifact), made
        except (CorruptArtifact, MissingArtifact) as error:
            _log.warning("%s It is computed again now.", error)
        made = self.materialize(recipe, produce, run_id=run_id, head=False)
        return read(made.artifact), made

    # Looking after the store

    def remove_leftovers(self) -> int:
        """Remove unfinished work of processes that have ended from the store and from this
        machine's cache; returns how many folders there were. What a living process of this or
        another machine uses stays."""
        return self._place.staging.remove_leftovers() + self._folders.staging.remove_leftovers()

    # Lineage

    def ancestry(self, ref: Ref) -> list[lineage.Edge]:
        """Every step from `ref` back to what no ref made: (ref, input name, source ref or None),
        nearest first."""
        return lineage.ancestry([ref], self.refs())

    def reachable(self) -> Iterator[lineage.Reached]:
        """Every blob that the heads and their ancestry need: (ref, entry, digest)."""
        return lineage.reachable(self.heads(), self.refs(), self._blobs)

    def verify(self) -> list[lineage.Problem]:
        """Hash everything reachable from the heads again; an empty list if all is well."""
        return lineage.verify(self._refs, self._blobs)

    def _found(self, recipe: Recipe) -> Materialized | None:
        try:
            ref = self.find(recipe)
        except CorruptRecord as damaged:
            _log.warning("%s It is made again now.", damaged)
            return None
        if ref is None:
            return None
        # First of all: what is renewed is not collected, so what is whole then stays so.
        self._renew(ref)
        artifact = self._whole(ref)
        return Materialized(ref, cached=True, artifact=artifact) if artifact else None

    def _renew(self, ref: Ref) -> None:
        """Have a ref that is found again count as new: nothing may be live that needs it yet, and
        it must outlast the work that has just begun to."""
        now = datetime.now(UTC)
        known = self._renewed.get(ref.recipe.key) or datetime.fromisoformat(ref.created_at)
        if now - known < RENEW_AFTER:
            return
        self._renewed[ref.recipe.key] = now
        with suppress(TdaError, OSError):  # who may only read finds what is there all the same
            self._refs.renew(ref)

    def _make(
        self,
        recipe: Recipe,
        produce: Callable[[Path], None],
        run_id: str,
        device: str,
        spent_s: Callable[[], float],
    ) -> Materialized:
        with self._place.staging.folder() as folder:
            start = time.monotonic()
            with full_disk(folder.parent):
                produce(folder)
            seconds = time.monotonic() - start + spent_s()
            digest = self._put_tree(folder, self._take_or_copy)
        ref = self.commit(recipe, digest, run_id=run_id, device=device, seconds=seconds)
        return Materialized(ref, cached=False, artifact=self.artifact(ref.digest))

    def _put_tree(self, folder: Path, put: Callable[[Path], tuple[str, int]]) -> str:
        files = dict(files_below(folder))
        stored = self._blobs.each(put, files.values())
        entries = {name: Entry(*blob) for name, blob in zip(files, stored, strict=True)}
        return self.put_bytes(tree_bytes(entries))

    def _take_or_copy(self, path: Path) -> tuple[str, int]:
        # What is linked is also somebody else's, who may change it.
        if path.is_symlink() or path.stat().st_nlink > 1:
            return self._blobs.put_file(path)
        return self._blobs.take(path)

    def _whole(self, ref: Ref) -> Artifact | None:
        """The artifact of `ref`, None if some of it has been lost or found damaged."""
        try:
            artifact = self.artifact(ref.digest)
        except (CorruptArtifact, MissingArtifact) as error:
            _log.warning("%s", error)
            return None
        sizes = {entry.digest: entry.size for entry in artifact.files.values()}
        if lost := self._blobs.lacking(sizes):
            _log.warning(
                "%s: %d of its %d files are damaged or missing, such as the blob %s",
                of_artifact(ref.digest, in_words(ref.recipe)), len(lost), len(sizes), lost[0],
            )  # fmt: skip
            return None
        return artifact


def _default_cache_dir() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "tda-dagster" / "store"
