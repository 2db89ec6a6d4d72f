"""Where artifacts come from, and whether they are still what they were.

What belongs here: walks over refs by the digests of their inputs. Nothing here writes.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Literal, NamedTuple

from tda_dagster.store.blobs import BlobStore
from tda_dagster.store.errors import CorruptRecord, MissingArtifact, StoreError
from tda_dagster.store.refs import Ref, RefBook
from tda_dagster.store.trees import read_artifact


class Edge(NamedTuple):
    """`ref` was made from `source` as its input `name`. `source` is None for an input that no ref
    made, such as an audio file; its digest is `ref.recipe.inputs[name]`."""

    ref: Ref
    name: str
    source: Ref | None


class Reached(NamedTuple):
    """A blob that `ref` needs: `entry` is the file's name in the artifact, "" for the artifact's
    own list of files, "inputs/<name>" for a plain blob among its inputs."""

    ref: Ref
    entry: str
    digest: str


@dataclass(frozen=True)
class Problem:
    """Something that `verify` found wrong. Asset and partition are "" where the damage hides
    them; `entry` is as in `Reached`. `pinned_by` names the snapshots that need it where no live
    ref does, and `needed` is False where nothing does."""

    kind: Literal["corrupt", "missing"]
    asset: str
    partition: str
    entry: str
    path: str
    detail: str
    pinned_by: tuple[str, ...] = ()
    needed: bool = True

    def __str__(self) -> str:
        place = self.asset + (f" [{self.partition}]" if self.partition else "")
        return f"{self.kind}: {place or 'a record'} {self.entry or '(itself)'}: {self.detail}"


def ancestry(starts: Iterable[Ref], refs: Iterable[Ref]) -> list[Edge]:
    """All edges from `starts` back to what nobody made, nearest first, inputs by name; each ref
    is entered once.

    Where several refs share an input's digest, the one of the same partition is taken, then the
    oldest.
    """
    makers: dict[str, list[Ref]] = defaultdict(list)
    for ref in refs:
        makers[ref.digest].append(ref)
    edges = []
    entered = {ref.recipe.key: ref for ref in starts}
    waiting = deque(entered.values())
    while waiting:
        ref = waiting.popleft()
        for name, digest in sorted(ref.recipe.inputs.items()):
            source = _maker(ref, makers.get(digest, []))
            edges.append(Edge(ref, name, source))
            if source is not None and source.recipe.key not in entered:
                entered[source.recipe.key] = source
                waiting.append(source)
    return edges


def with_ancestors(starts: Iterable[Ref], refs: Iterable[Ref]) -> list[Ref]:
    """The starts and every ref behind them, each once, nearest first."""
    starts = list(starts)
    behind = [edge.source for edge in ancestry(starts, refs) if edge.source is not None]
    return list({ref.recipe.key: ref for ref in [*starts, *behind]}.values())


def reachable(heads: Iterable[Ref], refs: Iterable[Ref], blobs: BlobStore) -> Iterator[Reached]:
    """Every blob that the heads and their ancestry need. A blob needed by several is reported
    for each.

    A list of files that cannot be read is reported, its files are not. An input that no ref made
    is reported only if it is in the store: audio files often lie elsewhere.
    """
    starts = list(heads)
    edges = ancestry(starts, refs)
    behind = [edge.source for edge in edges if edge.source is not None]
    yield from _own({ref.recipe.key: ref for ref in [*starts, *behind]}.values(), blobs)
    for ref, name, source in edges:
        digest = ref.recipe.inputs[name]
        if source is None and blobs.size(digest) is not None:
            yield Reached(ref, f"inputs/{name}", digest)


def _own(refs: Iterable[Ref], blobs: BlobStore) -> Iterator[Reached]:
    """The blobs of the refs' artifacts: lists of files, and the files."""
    for ref in refs:
        yield Reached(ref, "", ref.digest)
        try:
            files = read_artifact(blobs, ref.digest).files
        except StoreError:
            continue
        for name, entry in files.items():
            yield Reached(ref, name, entry.digest)


def verify(
    book: RefBook,
    blobs: BlobStore,
    *,
    pinned: Mapping[str, Iterable[Ref]] | None = None,
    others: Iterable[Ref] = (),
    loose: Collection[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Problem]:
    """Read every ref and head, hash everything reachable from the heads, and tell what is wrong.

    `pinned` holds more refs to start from, by the name of the snapshot that keeps them; `others`
    holds refs, and `loose` digests of blobs, that nothing need need. `progress` is told how many of
    how many bytes have been hashed.
    """
    heads, refs = list(book.scan_heads()), list(book.scan_refs())
    # A damaged ref that is live comes up in both.
    damaged = {r.path: str(r) for r in [*heads, *refs] if isinstance(r, CorruptRecord)}
    problems = [Problem("corrupt", "", "", "", path, damaged[path]) for path in sorted(damaged)]
    live, known = _sound(heads), _sound(refs)
    needed_by = _needed_by(live, known, pinned or {})
    starts = [*live, *(ref for refs in (pinned or {}).values() for ref in refs)]
    reached = list(reachable(starts, known, blobs))
    needed = {blob.ref.recipe.key for blob in reached}
    idle = [ref for ref in others if ref.recipe.key not in needed]
    reached += _own(idle, blobs)
    unlisted = set(loose) - {blob.digest for blob in reached}
    verdicts = _verdicts({blob.digest for blob in reached} | unlisted, blobs, progress)
    for ref, entry, digest in reached:
        if (error := verdicts[digest]) is not None:
            problems.append(
                Problem(
                    kind=_kind(error),
                    asset=ref.recipe.asset,
                    partition=ref.recipe.partition,
                    entry=entry,
                    path=blobs.where(digest),
                    detail=str(error),
                    pinned_by=needed_by.get(ref.recipe.key, ()),
                    needed=ref.recipe.key in needed,
                )
            )
    for digest in sorted(unlisted):
        if (error := verdicts[digest]) is not None:
            path = blobs.where(digest)
            problems.append(Problem(_kind(error), "", "", "", path, str(error), needed=False))
    return problems


def _kind(error: StoreError) -> Literal["corrupt", "missing"]:
    return "missing" if isinstance(error, MissingArtifact) else "corrupt"


def _sound(records: Iterable[Ref | CorruptRecord]) -> list[Ref]:
    return [record for record in records if isinstance(record, Ref)]


def _needed_by(
    live: list[Ref], refs: list[Ref], pinned: Mapping[str, Iterable[Ref]]
) -> dict[str, tuple[str, ...]]:
    """Recipe key → the snapshots that need it, for what no live ref needs."""
    if not pinned:
        return {}
    of_live = {ref.recipe.key for ref in with_ancestors(live, refs)}
    needed: dict[str, tuple[str, ...]] = {}
    for name, starts in pinned.items():
        for ref in with_ancestors(starts, refs):
            if ref.recipe.key not in of_live:
                needed[ref.recipe.key] = (*needed.get(ref.recipe.key, ()), name)
    return needed


def _verdicts(
    digests: Iterable[str], blobs: BlobStore, progress: Callable[[int, int], None]
) -> dict[str, StoreError | None]:
    """What is wrong with each blob."""
    wanted = sorted(digests)
    sizes = dict(zip(wanted, blobs.each(blobs.size, wanted), strict=True))
    total, done = sum(size or 0 for size in sizes.values()), 0
    reporting = Lock()

    def examine(digest: str) -> StoreError | None:
        nonlocal done
        found = _damage(blobs, digest)
        with reporting:
            done += sizes[digest] or 0
            progress(done, total)
        return found

    return dict(zip(wanted, blobs.each(examine, wanted), strict=True))


def _damage(blobs: BlobStore, digest: str) -> StoreError | None:
    try:
        blobs.check(digest)
    except StoreError as error:
        return error
    return None


def _maker(ref: Ref, candidates: list[Ref]) -> Ref | None:
    others = [other for other in candidates if other.recipe != ref.recipe]
    partition = ref.recipe.partition
    return min(
        others,
        key=lambda o: (o.recipe.partition != partition, o.created_at, o.recipe.key),
        default=None,
    )
