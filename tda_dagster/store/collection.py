"""Garbage collection: removing what no live ref and no snapshot reaches.

What is kept, and why:

- What live refs and snapshots pin, and everything that was made from, however far back.
- Whatever was written within the grace period, and what refs of that age need. Work that is under
  way puts its blobs first, then its ref, then makes it live; until then nothing else reaches it.
  What it finds instead of making it, it writes again (`artifacts.RENEW_AFTER`). The grace period
  must be longer than the longest such step; a day is.
- Shards all of whose inputs, or all of whose files, are in live artifacts. A shard is the resume
  cache of an artifact: it is never live itself, but with live inputs an interrupted or repeated run
  may still ask for it; and one whose files live artifacts hold takes no room. Other ones were made
  from something that has gone, and can never be asked for again. What only a snapshot holds keeps
  no shards: its artifacts are complete.

Refs go first, then blobs, so that an interrupted collection leaves nothing that names what is not
there; the rest goes next time. Between the two, what others did meanwhile is looked at again.

Claims of those who died and whose work nobody took up go too; a live one is renewed all the time.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tda_dagster.store import claims, lineage
from tda_dagster.store.artifacts import ArtifactStore
from tda_dagster.store.blobs import BLOBS, digest_in
from tda_dagster.store.errors import MissingArtifact, StoreError
from tda_dagster.store.refs import Ref, is_ref
from tda_dagster.store.snapshots import list_snapshots, pinned
from tda_dagster.store.trees import read_artifact
from tda_dagster.store.upkeep import Stored, inventory, last_written, parts

GRACE = timedelta(days=1)
SHARD = "/shard"
"""What the asset of a shard ends in."""
NOBODY = ""
"""Stands for the asset of blobs that no ref lists: uploads that never came to a ref."""

_REFS = "refs"
_CLAIM_GRACE = timedelta(hours=1)


@dataclass
class Tally:
    """How much of an asset is meant: refs, blobs and the bytes of those blobs. A blob that several
    assets list is counted for the first."""

    refs: int = 0
    blobs: int = 0
    size_bytes: int = 0


@dataclass(frozen=True)
class Plan:
    """What a collection would remove, and how much it would keep."""

    refs: tuple[tuple[str, Ref], ...]
    """Names in the store and what they say."""
    blobs: tuple[Stored, ...]
    by_asset: dict[str, Tally]
    kept_refs: int
    kept_blobs: int
    kept_size_bytes: int
    young_blobs: int
    """Blobs that nothing reaches, kept because they are younger than the grace period."""
    grace: timedelta
    claims: tuple[str, ...] = ()
    """Names of claims that nobody has renewed for an hour."""

    @property
    def size_bytes(self) -> int:
        return sum(blob.size_bytes for blob in self.blobs)


@dataclass(frozen=True)
class Collected:
    """What a collection removed."""

    refs: int
    blobs: int
    size_bytes: int


def plan_collection(store: ArtifactStore, *, grace: timedelta = GRACE) -> Plan:
    """What may be removed; writes nothing.

    Raises `StoreError` where a ref, a head, a snapshot, or the list of files of something kept is
    damaged: it cannot be known what it needs, so nothing may be removed.
    """
    place = parts(store).place
    before = datetime.now(UTC) - grace
    # Listed before what refers to them is read: what comes meanwhile is not in the lists.
    blobs = [item for item in inventory(place, BLOBS) if digest_in(item.name)]
    names = {_key(i.name): i.name for i in inventory(place, _REFS) if is_ref(i.name)}
    kept, reached = _reach(store, before)
    refs = [r for r in store.refs() if r.recipe.key in names and r.recipe.key not in kept]
    # What was made from others goes before them, so that what is left can always be traced.
    refs.sort(key=lambda ref: ref.created_at, reverse=True)
    loose = [blob for blob in blobs if _digest(blob) not in reached]
    dead = tuple(blob for blob in loose if not _young(blob.written, before))
    return Plan(
        refs=tuple((names[ref.recipe.key], ref) for ref in refs),
        blobs=dead,
        by_asset=_by_asset(store, refs, dead),
        kept_refs=len(names) - len(refs),
        kept_blobs=len(blobs) - len(dead),
        kept_size_bytes=sum(b.size_bytes for b in blobs) - sum(b.size_bytes for b in dead),
        young_blobs=len(loose) - len(dead),
        grace=grace,
        claims=tuple(
            item.name
            for item in inventory(place, claims.FOLDER)
            if item.name.endswith(".json") and _abandoned(item.written)
        ),
    )


def collect(
    store: ArtifactStore,
    plan: Plan,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Collected:
    """Remove what `plan` names, less what has come into use since it was made.

    `progress` is told how many of how many refs and blobs have been dealt with. May be interrupted
    at any point; the store stays sound, and the next collection goes on.
    """
    place = parts(store).place
    before = datetime.now(UTC) - plan.grace
    total = len(plan.refs) + len(plan.blobs)
    removed: list[Ref] = []
    for name in plan.claims:
        if _abandoned(last_written(place, name)):
            place.remove(name)
    kept, _ = _reach(store, before)
    for number, (name, ref) in enumerate(plan.refs):
        if ref.recipe.key not in kept and not _young(last_written(place, name), before):
            place.remove(name)
            removed.append(ref)
        progress(number + 1, total)
    back = _wanted_back(store, removed)
    for ref in back:
        parts(store).refs.create(ref)
    _, reached = _reach(store, before)
    done = itertools.count(len(plan.refs) + 1)

    def sweep(blob: Stored) -> bool:
        idle = _digest(blob) not in reached and not _young(last_written(place, blob.name), before)
        if idle:
            parts(store).blobs.remove(_digest(blob))
        progress(next(done), total)
        return idle

    gone = parts(store).blobs.each(sweep, plan.blobs)
    sizes = [blob.size_bytes for blob, idle in zip(plan.blobs, gone, strict=True) if idle]
    return Collected(len(removed) - len(back), len(sizes), sum(sizes))


def _reach(store: ArtifactStore, before: datetime) -> tuple[set[str], set[str]]:
    """Keys of the refs to keep, those written after `before` among them, and digests of the blobs
    to keep."""
    try:
        young = _young_refs(store, before)
        refs = list(store.refs())
        heads = store.heads()
        held = [ref for snapshot in list_snapshots(store) for ref in pinned(store, snapshot)]
    except StoreError as error:
        raise _unsafe(error) from error
    recent = [ref for ref in refs if ref.recipe.key in young]
    live = lineage.with_ancestors([*heads, *recent], refs)
    digests = _needed(store, live, must_be_whole={ref.recipe.key for ref in heads})
    kept = {ref.recipe.key for ref in live}
    shards = [r for r in refs if r.recipe.asset.endswith(SHARD) and r.recipe.key not in kept]
    resumable = [
        shard
        for shard, files in zip(shards, parts(store).blobs.each(_files(store), shards), strict=True)
        if digests.issuperset(shard.recipe.inputs.values()) or (files and digests >= files)
    ]
    behind = [r for r in lineage.with_ancestors(held, refs) if r.recipe.key not in kept]
    digests |= _needed(store, resumable, must_be_whole=set())
    digests |= _needed(store, behind, must_be_whole={ref.recipe.key for ref in held})
    return kept | {ref.recipe.key for ref in [*resumable, *behind]}, digests


def _files(store: ArtifactStore) -> Callable[[Ref], set[str]]:
    """Digests of the files of a ref's artifact; of none where its list of them is lost."""

    def files(ref: Ref) -> set[str]:
        try:
            return {e.digest for e in read_artifact(parts(store).blobs, ref.digest).files.values()}
        except StoreError:
            return set()

    return files


def _needed(store: ArtifactStore, refs: Iterable[Ref], must_be_whole: set[str]) -> set[str]:
    """Digests of all blobs that the refs need, their recipes' inputs among them."""
    blobs = parts(store).blobs

    def needed(ref: Ref) -> set[str]:
        own = {ref.digest, *ref.recipe.inputs.values()}
        try:
            return own | {e.digest for e in read_artifact(blobs, ref.digest).files.values()}
        except MissingArtifact as error:
            # What has lost its list of files cannot be read any more, and is made anew when asked
            # for; but where it is live or pinned, a person should know before more goes.
            if ref.recipe.key in must_be_whole:
                raise _unsafe(error) from error
            return own
        except StoreError as error:
            raise _unsafe(error) from error

    return set().union(*blobs.each(needed, refs))


def _unsafe(error: StoreError) -> StoreError:
    return StoreError(
        f"nothing was collected, because it cannot be known what is still needed: {error} "
        "`tda verify` names everything that is damaged"
    )


def _young_refs(store: ArtifactStore, before: datetime) -> set[str]:
    """Keys of the refs that were written after `before`."""
    stored = inventory(parts(store).place, _REFS)
    return {_key(item.name) for item in stored if _young(item.written, before)}


def _wanted_back(store: ArtifactStore, removed: list[Ref]) -> list[Ref]:
    """Those of the removed refs that somebody made live, or pinned, a moment before they went, and
    what those were made from."""
    named = parts(store).refs.live_recipes()
    named |= {pin.recipe for snapshot in list_snapshots(store) for pin in snapshot.pins}
    refs = [*store.refs(), *removed]
    starts = [ref for ref in refs if ref.recipe.key in named]
    needed = {ref.recipe.key for ref in lineage.with_ancestors(starts, refs)}
    return [ref for ref in removed if ref.recipe.key in needed]


def _key(ref_name: str) -> str:
    return ref_name.rpartition("/")[2].removesuffix(".json")


def _young(written: datetime | None, before: datetime) -> bool:
    """Whether something was written within the grace period; also if nobody knows."""
    return written is None or written > before


def _abandoned(renewed: datetime | None) -> bool:
    """Whether a claim last written at `renewed` is nobody's any more."""
    return not _young(renewed, datetime.now(UTC) - _CLAIM_GRACE)


def _digest(blob: Stored) -> str:
    return blob.name.rpartition("/")[2]


def _by_asset(store: ArtifactStore, refs: list[Ref], blobs: tuple[Stored, ...]) -> dict[str, Tally]:
    """What goes, by the asset it belonged to."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    owner: dict[str, str] = {}

    for ref, digests in zip(refs, parts(store).blobs.each(_files(store), refs), strict=True):
        tallies[ref.recipe.asset].refs += 1
        for digest in (ref.digest, *digests):
            owner.setdefault(digest, ref.recipe.asset)
    for blob in blobs:
        tally = tallies[owner.get(_digest(blob), NOBODY)]
        tally.blobs += 1
        tally.size_bytes += blob.size_bytes
    return dict(sorted(tallies.items()))
