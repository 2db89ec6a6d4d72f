"""Looking at everything again: whether blobs, records and copies are still what they were made as.

What belongs here: what is looked at, for whom. What is wrong with one blob is said in `lineage`.
A damaged blob that is found is noted in the store: what needs it is made again when it is asked
for.
"""

from collections.abc import Callable, Iterator
from typing import Literal

from tda_dagster.store import lineage
from tda_dagster.store.artifacts import ArtifactStore
from tda_dagster.store.blobs import BLOBS, digest_in
from tda_dagster.store.errors import CorruptRecord, StoreError
from tda_dagster.store.lineage import Problem
from tda_dagster.store.refs import Ref
from tda_dagster.store.snapshots import scan_snapshots, wrong_with
from tda_dagster.store.trees import Artifact
from tda_dagster.store.upkeep import inventory, parts

_REMEDY = "nothing; it is a copy, and is made again from the store when it is next read"

Progress = Callable[[int, int], None]


def verify_needed(
    store: ArtifactStore, progress: Progress = lambda done, total: None
) -> list[Problem]:
    """Hash everything again that live refs and snapshots reach; an empty list if all is well.

    `progress` is told how many of how many bytes have been hashed. A damaged record is a problem
    among the others, not an error.
    """
    blobs, book = parts(store).blobs, parts(store).refs
    problems, held = _snapshots(store)
    return problems + lineage.verify(book, blobs, pinned=held, progress=progress)


def verify_everything(
    store: ArtifactStore, progress: Progress = lambda done, total: None
) -> list[Problem]:
    """The same for all that is in the store, shards and what was live once among it, and for the
    copies in the cache of this machine."""
    place, blobs, book, _ = parts(store)
    problems, held = _snapshots(store)
    others = [ref for ref in book.scan_refs() if isinstance(ref, Ref)]
    loose = {d for item in inventory(place, BLOBS) if (d := digest_in(item.name))}
    problems += lineage.verify(
        book, blobs, pinned=held, others=others, loose=loose, progress=progress
    )
    return [*problems, *_copies(store)]


def _snapshots(store: ArtifactStore) -> tuple[list[Problem], dict[str, list[Ref]]]:
    """What is wrong with the snapshots, and the refs that each of them holds."""
    place, book = parts(store).place, parts(store).refs
    refs = {r.recipe.key: r for r in book.scan_refs() if isinstance(r, Ref)}
    problems, held = list[Problem](), dict[str, list[Ref]]()
    for name, snapshot in scan_snapshots(place).items():
        if isinstance(snapshot, CorruptRecord):
            problems.append(Problem("corrupt", "", "", "", snapshot.path, str(snapshot)))
            continue
        held[snapshot.name] = [refs[p.recipe] for p in snapshot.pins if not wrong_with(p, refs)]
        for pin in snapshot.pins:
            if (wrong := wrong_with(pin, refs)) is not None:
                path, by = place.where(name), (snapshot.name,)
                problems.append(
                    Problem("missing", pin.asset, pin.partition, "", path, wrong, pinned_by=by)
                )
    return problems, held


def _copies(store: ArtifactStore) -> Iterator[Problem]:
    """What is damaged in the cache of this machine."""
    copies = parts(store).copies
    for path in copies.damage(_artifacts(store)):
        kind: Literal["corrupt", "missing"] = "corrupt" if path.exists() else "missing"
        yield Problem(kind, "", "", "", str(path), _REMEDY)
    for path in parts(store).blobs.damaged_copies():
        yield Problem("corrupt", "", "", "", str(path), _REMEDY)


def _artifacts(store: ArtifactStore) -> dict[str, Artifact]:
    """All artifacts whose lists of files can be read, by digest."""
    artifacts = dict[str, Artifact]()
    for ref in parts(store).refs.scan_refs():
        if isinstance(ref, Ref) and ref.digest not in artifacts:
            try:
                artifacts[ref.digest] = store.artifact(ref.digest)
            except StoreError:
                continue
    return artifacts
