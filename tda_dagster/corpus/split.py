"""Which tracks are trained on and which are held out.

Belongs here: works (a track with its versions) and the rule that keeps a work on one side.
"""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence

from tda_dagster.corpus.manifest import ManifestRow, ManifestRows
from tda_dagster.corpus.rejects import Reject
from tda_dagster.errors import TdaError
from tda_dagster.quoting import shown

_log = logging.getLogger(__name__)

_FEWEST_WORKS_TO_HOLD_ONE_OUT = 5
_SHOWN_REJECTS = 3


class NothingToTrainOn(TdaError):
    """No track of a dataset is trained on."""


def assign_splits(
    rows: Collection[ManifestRow], kept: Collection[str], heldout_fraction: float, seed: int
) -> dict[str, str]:
    """The split of every track id in `kept`; `rows` is the whole manifest, whatever was rejected.

    As soon as one row of the manifest gives a `split`, the manifest decides: tracks without one
    follow their work (train, where it is on both sides, for the held-out side must stay clean), or
    are trained on. Otherwise works are drawn: those whose sha256 of (seed, work) is smallest, in
    number `heldout_fraction` of all works, but at least one of five or more.
    """
    work_of = _works({row["track_id"]: row["version_of"] for row in rows})
    given = {row["track_id"]: row["split"] for row in rows if row["split"] is not None}
    if given:
        return _follow(given, work_of, kept)
    works = {work_of[track_id] for track_id in kept}
    heldout = _draw(works, heldout_fraction, seed)
    return {name: "heldout" if work_of[name] in heldout else "train" for name in kept}


def check_manifest(manifest: ManifestRows) -> None:
    """Raise `NothingToTrainOn` if the manifest's own column split holds out every track, which is
    known before any file is opened."""
    rows = [row for _, row in manifest.rows]
    if rows:
        check_training(manifest, assign_splits(rows, [row["track_id"] for row in rows], 0.0, 0))


def check_training(
    manifest: ManifestRows, splits: Mapping[str, str], rejects: Sequence[Reject] = ()
) -> None:
    """Raise `NothingToTrainOn` if no track of `splits` is trained on, unless the manifest has no
    rows. `splits` has the tracks that are left of the manifest, see `assign_splits`; `rejects` says
    what became of others."""
    if not manifest.total or "train" in splits.values():
        return
    if not splits:
        told = [f"; line {r.line}: {r.reason.value}: {r.detail}" for r in rejects[:_SHOWN_REJECTS]]
        more = f"; and {len(rejects) - len(told)} more" if len(rejects) > len(told) else ""
        raise NothingToTrainOn(
            f"{manifest.uri}: no track is left to train on: all {manifest.total} rows are rejected "
            f"or taken down (dataset.taken_down){''.join(told)}{more}."
        )
    heldout = sum(row["split"] == "heldout" for _, row in manifest.rows)
    raise NothingToTrainOn(
        f"{manifest.uri}: no track is left to train on: by its column split, all of the "
        f"{len(splits)} tracks that are not rejected or taken down are held out ({heldout} of "
        f"{manifest.total} rows say 'heldout'). Write 'train' for the tracks the model is trained "
        "on, or leave the column out."
    )


def _works(version_of: Mapping[str, str | None]) -> dict[str, str]:
    """Track id -> its work, named by the smallest id among those that `version_of` connects.

    Ids that no row has connect as well: two versions of a missing original are one work.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for track_id, original in version_of.items():
        first, second = sorted((root(track_id), root(original or track_id)))
        parent[second] = first
    return {track_id: root(track_id) for track_id in version_of}


def _follow(
    given: Mapping[str, str], work_of: Mapping[str, str], kept: Collection[str]
) -> dict[str, str]:
    of_work: dict[str, set[str]] = {}
    for track_id, split in given.items():
        of_work.setdefault(work_of[track_id], set()).add(split)
    torn = sorted(work for work, splits in of_work.items() if len(splits) > 1)
    if torn:
        _log.warning(
            "the manifest's split puts versions of one work on both sides: %d works, first %s",
            len(torn),
            shown(torn[0]),
        )
    inherited = {
        work: "heldout" if splits == {"heldout"} else "train" for work, splits in of_work.items()
    }
    return {name: given.get(name) or inherited.get(work_of[name], "train") for name in kept}


def _draw(works: Collection[str], fraction: float, seed: int) -> set[str]:
    count = int(fraction * len(works) + 0.5)
    if fraction > 0 and len(works) >= _FEWEST_WORKS_TO_HOLD_ONE_OUT:
        count = max(count, 1)
    count = min(count, max(len(works) - 1, 0))  # something must be left to train on

    def drawn(work: str) -> bytes:
        return hashlib.sha256(f"{seed}:{work}".encode()).digest()

    return set(sorted(works, key=drawn)[:count])
