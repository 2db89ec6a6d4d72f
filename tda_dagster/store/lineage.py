"""Where artifacts come from, and whether they are still what they were.

What belongs here: walks over refs by the digests of their inputs. Nothing here writes.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
    them; `entry` is as in `Reached`."""

    kind: Literal["corrupt", "missing"]
    asset: str
    partition: str
    entry: str
    path: str
    detail: str

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
    waiting = deque(starts)
    entered = set(waiting)
    while waiting:
        ref = waiting.popleft()
        for name, digest in sorted(ref.recipe.inputs.items()):
            source = _maker(ref, makers.get(digest, []))
            edges.append(Edge(ref, name, source))
            if source is not None and source not in entered:
                entered.add(source)
                waiting.append(source)
    return edges


def reachable(heads: Iterable[Ref], refs: Iterable[Ref], blobs: BlobStore) -> Iterator[Reached]:
    """Every blob that the heads and their ancestry need. A blob needed by several is reported
    for each.

    A list of files that cannot be read is reported, its files are not. An input that no ref made
    is reported only if it is in the store: audio files often lie elsewhere.
    """
    starts = list(heads)
    edges = ancestry(starts, refs)
    for ref in dict.fromkeys([*starts, *(edge.source for edge in edges if edge.source)]):
        yield Reached(ref, "", ref.digest)
        try:
            files = read_artifact(blobs, ref.digest).files
        except StoreError:
            continue
        for name, entry in files.items():
            yield Reached(ref, name, entry.digest)
    for ref, name, source in edges:
        digest = ref.recipe.inputs[name]
        if source is None and blobs.size(digest) is not None:
            yield Reached(ref, f"inputs/{name}", digest)


def verify(book: RefBook, blobs: BlobStore) -> list[Problem]:
    """Read every ref and head, hash everything reachable from the heads, and tell what is wrong."""
    heads, refs = list(book.scan_heads()), list(book.scan_refs())
    # A damaged ref that is live comes up in both.
    damaged = {r.path: str(r) for r in [*heads, *refs] if isinstance(r, CorruptRecord)}
    problems = [Problem("corrupt", "", "", "", path, damaged[path]) for path in sorted(damaged)]
    verdicts: dict[str, StoreError | None] = {}
    for ref, entry, digest in reachable(_sound(heads), _sound(refs), blobs):
        if digest not in verdicts:
            verdicts[digest] = _damage(blobs, digest)
        if (error := verdicts[digest]) is not None:
            problems.append(_problem(ref, entry, blobs.where(digest), error))
    return problems


def _sound(records: Iterable[Ref | CorruptRecord]) -> list[Ref]:
    return [record for record in records if isinstance(record, Ref)]


def _damage(blobs: BlobStore, digest: str) -> StoreError | None:
    try:
        blobs.check(digest)
    except StoreError as error:
        return error
    return None


def _problem(ref: Ref, entry: str, path: str, error: StoreError) -> Problem:
    return Problem(
        kind="missing" if isinstance(error, MissingArtifact) else "corrupt",
        asset=ref.recipe.asset,
        partition=ref.recipe.partition,
        entry=entry,
        path=path,
        detail=str(error),
    )


def _maker(ref: Ref, candidates: list[Ref]) -> Ref | None:
    others = [other for other in candidates if other.recipe != ref.recipe]
    partition = ref.recipe.partition
    return min(
        others,
        key=lambda o: (o.recipe.partition != partition, o.created_at, o.recipe.key),
        default=None,
    )
