"""Tracks that come and go: what that takes, and what it cannot change, before anything runs.

What belongs here: which tracks and shards are concerned, and following that through what the assets
declare. A run does not ask; it finds by recipe what there is already.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import polars as pl

import assets  # noqa: F401  (declares them)
from assets.dataset import read_index
from tda_dagster.corpus import DatasetIndex, ManifestRows, read_manifest
from tda_dagster.corpus.examination import Examiner
from tda_dagster.corpus.index import IndexOptions, assemble_index, audio_of
from tda_dagster.corpus.shards import shards
from tda_dagster.corpus.split import assign_splits, check_training
from tda_dagster.diffusion.audio_format import AudioFormat, spec_for
from tda_dagster.errors import TdaError
from tda_dagster.materialization import STUDY_ASSETS, MissingInput, StudyAsset, settings_view
from tda_dagster.partitions import Partition
from tda_dagster.store import Artifact
from tda_dagster.store.snapshots import list_snapshots, open_snapshot
from tda_dagster.workspace import Workspace


class Effect(StrEnum):
    """What a change of tracks does to an artifact."""

    STAYS = "stays"
    """It comes out the same, from what is stored."""
    PARTLY = "partly new"
    """Only the shards that the change touches are worked on again."""
    NEW = "new"


@dataclass(frozen=True)
class Turnover:
    """A change of the dataset's tracks, by id: those that came, those that went, those that stayed
    with another caption, and those that change sides between training and held out. Of so many
    `shards` that there will be, `touched` are not there yet. `begins_at` is the first asset that
    sees it."""

    begins_at: str
    came: tuple[str, ...]
    went: tuple[str, ...]
    recaptioned: tuple[str, ...]
    changed_sides: tuple[str, ...]
    touched: int
    shards: int


@dataclass(frozen=True)
class Forecast:
    """What becomes of an asset (and partition), and because of which of its inputs."""

    asset: str
    partition: str
    effect: Effect
    because: tuple[str, ...]


def takedown(workspace: Workspace, track_ids: Sequence[str]) -> Turnover:
    """The change that taking down tracks of the live dataset would be. Raises TdaError for an id
    that it does not have, and where no track would be left."""
    index = read_index(_live(workspace, "dataset/index"))
    known = set(index.tracks["track_id"])
    if unknown := sorted(set(track_ids) - known):
        raise TdaError(
            f"{unknown[0]!r} is no track of the dataset; their ids are listed by "
            '`tda sql "select track_id, title from dim_track"`'
        )
    if not known - set(track_ids):
        raise TdaError("no track would be left; without one there is no dataset")
    rows = _manifest(workspace)
    kept = known - set(track_ids)
    return _turnover(workspace, index, index.segments, rows, kept, begins_at="dataset/index")


def growth(workspace: Workspace) -> Turnover:
    """The change between the live dataset and what the manifest and `dataset.taken_down` say now.
    Tracks that are new, or were refused, are decoded; files that changed in place are not looked
    for."""
    index = read_index(_live(workspace, "dataset/index"))
    settings, rows = workspace.settings.dataset, _manifest(workspace)
    left_out = set(settings.taken_down)
    listed = {row["track_id"]: row for _, row in rows.rows if row["track_id"] not in left_out}
    known = dict(index.tracks.select("track_id", "caption").iter_rows())
    new = [(line, row) for line, row in rows.rows if row["track_id"] in listed.keys() - known]
    audio = AudioFormat.load(_live(workspace, "base/autoencoder").path("audio_format.json"))
    spec = spec_for(audio, settings)
    # None of the new tracks need be one to train on, so this is no `index_dataset`.
    coming, options = ManifestRows(rows.uri, new, []), IndexOptions(0.0, settings.seed, 1.0)
    files = dict.fromkeys(audio_of(coming, options))
    outcomes = Examiner(rows.uri, spec).examine_all(files)
    found = assemble_index(coming, outcomes, spec, options)
    segments = pl.concat([index.segments, found.segments])
    kept = (known.keys() & listed.keys()) | set(found.tracks["track_id"])
    recaptioned = [t for t in known.keys() & listed.keys() if known[t] != listed[t]["caption"]]
    return _turnover(
        workspace,
        index,
        segments,
        rows,
        kept,
        recaptioned,
        begins_at="dataset/manifest",
    )


def forecast(
    workspace: Workspace, turnover: Turnover, partitions: Sequence[Partition]
) -> list[Forecast]:
    """What becomes of everything that is made without being asked for by name, in the order of the
    data flow, for some partitions."""
    live = {(ref.recipe.asset, ref.recipe.partition) for ref in workspace.store.heads()}
    effects: dict[tuple[str, str], Effect] = {}
    found = []
    for declared in STUDY_ASSETS.values():
        if declared.on_request:
            continue
        for partition in partitions if declared.partitioned else (None,):
            place = declared.store_partition(partition)
            if (declared.name, place) in effects:
                continue
            causes = dict(_causes(declared, workspace, partition, effects))
            begins = declared.name == turnover.begins_at or (declared.name, place) not in live
            effect = Effect.NEW if begins else _effect(declared, causes)
            effects[declared.name, place] = effect
            found.append(Forecast(declared.name, place, effect, tuple(causes)))
    return found


def caveats(workspace: Workspace, turnover: Turnover) -> list[str]:
    """What no run undoes, or what a run would do that need not be, in sentences."""
    return [*_of_the_model(workspace, turnover), *_of_traces(workspace, turnover)]


def _of_the_model(workspace: Workspace, turnover: Turnover) -> Iterator[str]:
    pipeline, kept = workspace.settings.model.pipeline, workspace.settings.fisher.snapshot
    if pipeline is None:
        yield (
            "the model is trained again on the tracks as they are then: it is another model, the "
            "pieces that it generates are others, and all of them are attributed anew"
        )
        return
    if turnover.went:
        yield (
            f"the model of {pipeline} was trained elsewhere: if tracks that go were in its "
            "training, they are in its weights, in the pieces that it generates and in every "
            "unlearned checkpoint, until it is trained again without them"
        )
    if kept is None:
        yield (
            "the Fisher information is measured anew, and with it every query is unlearned and "
            "every segment swept anew; to keep it, and sweep only what is new, take a snapshot now "
            "(`tda snapshot add NAME`) and set fisher.snapshot: NAME"
        )
    else:
        among = ", tracks that go among them" if turnover.went else ""
        yield (
            f"the Fisher information stays that of the snapshot {kept}, over its training "
            f"segments{among}"
        )


def _of_traces(workspace: Workspace, turnover: Turnover) -> Iterator[str]:
    """Where tracks that go are found all the same."""
    if not turnover.went:
        return
    held = [s.name for s in list_snapshots(workspace.store) if _holds(workspace, s.name, turnover)]
    if held:
        yield f"snapshots keep what was made from them: {', '.join(held)} (`tda snapshot remove`)"
    if workspace.settings.dataset.manifest is None:
        yield (
            "dataset/manifest, the reference study as it was rendered, keeps their audio, and "
            "`tda gc` the latents that were made from it; all else that was made from them goes "
            "with `tda gc --delete`"
        )
        return
    yield "their rows and audio files stay where they are: they are yours to delete"
    yield "what else was made from them goes with `tda gc --delete`, a day after the run"


def _turnover(
    workspace: Workspace,
    index: DatasetIndex,
    segments: pl.DataFrame,
    manifest: ManifestRows,
    kept: Collection[str],
    recaptioned: Sequence[str] = (),
    *,
    begins_at: str,
) -> Turnover:
    """The change from `index` to the `kept` tracks of `segments`. Raises `NothingToTrainOn` where
    none of them is trained on."""
    settings = workspace.settings.dataset
    before = dict(index.tracks.select("track_id", "split").iter_rows())
    rows = [row for _, row in manifest.rows]
    after = assign_splits(rows, kept, settings.heldout_fraction, settings.seed)
    check_training(manifest, after)
    remain = segments.filter(pl.col("track_id").is_in(list(kept)))
    remain = remain.with_columns(split=pl.col("track_id").replace_strict(after, default=None))
    remain = remain.sort("track_id", "segment_index")
    there, wanted = (
        {
            (name, tuple(rows["segment_sha256"]))
            for name, rows in shards(table, settings.shard_segments, settings.manifest)
            if not set(rows["track_id"]) & others
        }
        for table, others in ((index.segments, set(recaptioned)), (remain, set()))
    )
    return Turnover(
        begins_at=begins_at,
        came=tuple(sorted(kept - before.keys())),
        went=tuple(sorted(before.keys() - kept)),
        recaptioned=tuple(sorted(recaptioned)),
        changed_sides=tuple(sorted(t for t in after if before.get(t, after[t]) != after[t])),
        touched=len(wanted - there),
        shards=len(wanted),
    )


def _causes(
    declared: StudyAsset,
    workspace: Workspace,
    partition: Partition | None,
    effects: Mapping[tuple[str, str], Effect],
) -> Iterator[tuple[str, Effect]]:
    """The inputs that change in a way that bears on the asset, and how they do."""
    view = settings_view(workspace.settings, declared.settings, partition)
    unmoved = declared.unmoved_by(view, workspace, partition)
    for name in declared.inputs:
        effect = effects.get((name, STUDY_ASSETS[name].store_partition(partition)), Effect.STAYS)
        if name not in unmoved and effect is not Effect.STAYS:
            yield name, effect
    for name in declared.gathers:
        if any(effects[key] is not Effect.STAYS for key in effects if key[0] == name):
            yield name, Effect.NEW


def _effect(declared: StudyAsset, causes: Mapping[str, Effect]) -> Effect:
    if not causes:
        return Effect.STAYS
    return Effect.PARTLY if set(causes) <= set(declared.by_shard) else Effect.NEW


def _live(workspace: Workspace, asset: str) -> Artifact:
    head = workspace.store.head(asset)
    if head is None:
        raise MissingInput(f"{asset} has not been materialised, so nothing can change yet")
    return workspace.store.artifact(head.digest)


def _manifest(workspace: Workspace) -> ManifestRows:
    own = workspace.settings.dataset.manifest
    if own is not None:
        return read_manifest(workspace.locate(own))
    folder: Path = workspace.plain_folder(_live(workspace, "dataset/manifest"))
    return read_manifest(str(folder / "manifest.parquet"))


def _holds(workspace: Workspace, snapshot: str, turnover: Turnover) -> bool:
    head = open_snapshot(workspace.store, snapshot).head("dataset/index")
    if head is None:
        return False
    tracks = read_index(workspace.store.artifact(head.digest)).tracks["track_id"]
    return not set(turnover.went).isdisjoint(tracks)
