"""The dataset index: the tables `tracks`, `segments` and `rejects`, made from a manifest and read.

Belongs here: the tables' schemas, what follows from a manifest and its examined files, and reading
segments' audio back. Rows, windows, rejects and examined files have modules of their own.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from tda_dagster.corpus.audio import open_audio
from tda_dagster.corpus.examination import Examined, Examiner, Outcome
from tda_dagster.corpus.location import resolve
from tda_dagster.corpus.manifest import ManifestRow, ManifestRows
from tda_dagster.corpus.rejects import Reject, RejectReason, TooManyRejects, rejects_table, shown
from tda_dagster.corpus.segments import Samples, SegmentSpec, Window, cut, windows
from tda_dagster.corpus.split import assign_splits, check_training
from tda_dagster.errors import TdaError

Row = Mapping[str, Any]

TRACKS_SCHEMA = pl.Schema(
    {
        "track_id": pl.String,
        "title": pl.String,
        "artist": pl.String,
        "rightsholder": pl.String,
        "composer": pl.String,
        "collection": pl.String,
        "key": pl.String,
        "tempo_bpm": pl.Float64,
        "instruments": pl.String,
        "caption": pl.String,
        "licence": pl.String,
        "version_of": pl.String,
        "version_kind": pl.String,
        "split": pl.String,
        "extra": pl.String,
        "audio": pl.String,
        "audio_sha256": pl.String,
        "sample_rate_hz": pl.Int64,
        "channels": pl.Int64,
        "duration_s": pl.Float64,
    }
)
"""`audio` is as in the manifest, `extra` has its other columns as a JSON object of strings; rate,
channels and duration are the file's own."""

SEGMENTS_SCHEMA = pl.Schema(
    {
        "segment_id": pl.String,
        "track_id": pl.String,
        "segment_index": pl.Int64,
        "start_s": pl.Float64,
        "seconds_total": pl.Float64,
        "samples": pl.Int64,
        "valid_samples": pl.Int64,
        "frames": pl.Int64,
        "valid_frames": pl.Int64,
        "split": pl.String,
        "segment_sha256": pl.String,
    }
)


@dataclass(frozen=True)
class DatasetIndex:
    """The tables of a dataset, and the manifest (path or URL) its audio paths are relative to.

    `tracks` is sorted by track_id, `segments` by track_id and segment_index, `rejects` by line.
    Every row of the manifest is in `tracks` or in `rejects`; in both only where `rejects` says
    `unknown_version_of`.
    """

    manifest: str
    tracks: pl.DataFrame
    segments: pl.DataFrame
    rejects: pl.DataFrame


def index_dataset(
    rows: ManifestRows,
    spec: SegmentSpec,
    *,
    heldout_fraction: float,
    seed: int,
    max_reject_fraction: float,
    taken_down: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> DatasetIndex:
    """Decode every file of a manifest once, measure it and cut it into segments: `audio_of`,
    `Examiner.examine_all` and `assemble_index` one after the other, whose arguments these are.

    The tracks `taken_down`, by id, are left out: their files are not opened.

    Raises `TooManyRejects`, with all rejects of the manifest, and `NothingToTrainOn` if no track is
    left or all are held out.
    """
    if workers < 1:
        raise TdaError(f"workers must be at least 1, not {workers}.")
    options = IndexOptions(heldout_fraction, seed, max_reject_fraction, frozenset(taken_down))
    check_rows(rows, options)
    files = dict.fromkeys(audio_of(rows, options))
    examiner = Examiner(rows.uri, spec)
    outcomes = examiner.examine_all(files, workers=workers, progress=progress)
    index = assemble_index(rows, outcomes, spec, options)
    require_training(rows, index)
    return index


@dataclass(frozen=True)
class IndexOptions:
    """How the rows of a manifest become tracks. `heldout_fraction` and `seed` are those of
    `split.assign_splits`; tracks `taken_down`, by id, are left out."""

    heldout_fraction: float
    seed: int
    max_reject_fraction: float
    taken_down: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        held_out, most = self.heldout_fraction, self.max_reject_fraction
        if not 0 <= held_out < 1:
            raise TdaError(f"heldout_fraction must be at least 0 and below 1, not {held_out}.")
        if not 0 <= most <= 1:
            raise TdaError(f"max_reject_fraction must lie in 0 ... 1, not {most}.")


def check_rows(rows: ManifestRows, options: IndexOptions) -> None:
    """Raise `NothingToTrainOn` if no track can be left to train on, whatever the files are."""
    wanted = [row["track_id"] for _, row in rows.rows if row["track_id"] not in options.taken_down]
    check_training(rows, _splits(rows, wanted, options))


def audio_of(rows: ManifestRows, options: IndexOptions) -> list[str]:
    """The files to examine, as the manifest names them, sorted."""
    wanted = (row for _, row in rows.rows if row["track_id"] not in options.taken_down)
    return sorted({row["audio"] for row in wanted})


def assemble_index(
    rows: ManifestRows,
    outcomes: Mapping[str, Outcome],
    spec: SegmentSpec,
    options: IndexOptions,
) -> DatasetIndex:
    """The tables of a manifest whose files (`audio_of`) have been examined under `spec`.

    A `version_of` that names no track of the index (or the track itself) is dropped together with
    `version_kind` and recorded in `rejects` as unknown_version_of; the track stays, since a model
    was trained on it all the same, and it does not count against `max_reject_fraction`. Nor do the
    tracks that are taken down, which `rejects` lists.

    Raises `TooManyRejects`, with all rejects of the manifest, if more than `max_reject_fraction` of
    all rows are left out. See also `require_training`.
    """
    rejects = list(rows.rejects)
    examined: list[tuple[int, ManifestRow, Examined]] = []
    for line, row in rows.rows:
        if row["track_id"] in options.taken_down:
            continue
        outcome = outcomes[row["audio"]]
        if isinstance(outcome, Examined):
            examined.append((line, row, outcome))
        else:
            detail = f"{shown(row['audio'])}: {outcome.detail}"
            rejects.append(Reject(line, outcome.reason, detail, row["track_id"], row["audio"]))
    if rejects and len(rejects) / rows.total > options.max_reject_fraction:
        raise TooManyRejects(rows.uri, rejects, rows.total, options.max_reject_fraction)
    kept = {row["track_id"] for _, row, _ in examined}
    splits = _splits(rows, kept, options)
    rejects += _unknown_versions(examined, kept)
    rejects += [
        Reject(line, RejectReason.TAKEN_DOWN, "left out by request", row["track_id"], row["audio"])
        for line, row in rows.rows
        if row["track_id"] in options.taken_down
    ]
    tracks = [_track(row, measured, kept, splits) for _, row, measured in examined]
    segments = [
        segment
        for _, row, measured in examined
        for segment in _segments(row["track_id"], measured, spec, splits)
    ]
    return DatasetIndex(
        manifest=rows.uri,
        tracks=pl.DataFrame(tracks, schema=TRACKS_SCHEMA).sort("track_id"),
        segments=pl.DataFrame(segments, schema=SEGMENTS_SCHEMA).sort("track_id", "segment_index"),
        rejects=rejects_table(rejects),
    )


def require_training(rows: ManifestRows, index: DatasetIndex) -> None:
    """Raise `NothingToTrainOn` if no track is left in the index of a manifest, or all are held
    out."""
    splits = dict(index.tracks.select("track_id", "split").iter_rows())
    rejects = [
        Reject(line, RejectReason(reason), detail)
        for line, reason, detail in index.rejects.select("line", "reason", "detail").iter_rows()
    ]
    check_training(rows, splits, rejects)


def _splits(rows: ManifestRows, kept: Collection[str], options: IndexOptions) -> dict[str, str]:
    manifest = [row for _, row in rows.rows]
    return assign_splits(manifest, kept, options.heldout_fraction, options.seed)


def iter_segments(
    index: DatasetIndex, spec: SegmentSpec, segment_ids: Iterable[str] | None = None
) -> Iterator[tuple[dict[str, Any], Samples]]:
    """Rows of `index.segments` with their audio, float32 [spec.channels, spec.samples].

    In the order of `segment_ids` (default: of the table). Segments of one track that follow one
    another share one decoding; one decoded file is in memory at a time. Raises `TdaError` where a
    file is not the one that was indexed, or the index was not made with this `spec`.
    """
    segments = index.segments if segment_ids is None else _select(index.segments, segment_ids)
    tracks = index.tracks.select("track_id", "audio", "audio_sha256").rows_by_key(
        "track_id", named=True, unique=True, include_key=True
    )
    for track_id, of_track in itertools.groupby(
        segments.iter_rows(named=True), key=lambda segment: segment["track_id"]
    ):
        yield from _cut_all(tracks[track_id], of_track, spec, index.manifest)


def decode_segment(track: Row, segment: Row, spec: SegmentSpec, *, manifest: str) -> Samples:
    """Audio of one segment, float32 [spec.channels, spec.samples], zero after its valid samples.

    Takes rows of `tracks` and `segments`, and the manifest that relative audio paths start at.
    Decodes the whole file: use `iter_segments` for many. Raises as that does.
    """
    return next(_cut_all(track, [dict(segment)], spec, manifest))[1]


# ---------------------------------------------------------------- from examined files to tables


def _unknown_versions(
    examined: Iterable[tuple[int, ManifestRow, Examined]], kept: Collection[str]
) -> list[Reject]:
    rejects = []
    for line, row, _ in examined:
        if row["version_of"] is not None and _version_of(row, kept) is None:
            what = "itself" if row["version_of"] == row["track_id"] else "no track of this dataset"
            detail = f"version_of {shown(row['version_of'])} is {what}; kept as a track of its own"
            rejects.append(
                Reject(line, RejectReason.UNKNOWN_VERSION_OF, detail, row["track_id"], row["audio"])
            )
    return rejects


def _version_of(row: ManifestRow, kept: Collection[str]) -> str | None:
    original = row["version_of"]
    return original if original in kept and original != row["track_id"] else None


def _track(
    row: ManifestRow, measured: Examined, kept: Collection[str], splits: Mapping[str, str]
) -> Row:
    version_of = _version_of(row, kept)
    return {
        **row,
        "version_of": version_of,
        "version_kind": None if version_of is None else row["version_kind"],
        "split": splits[row["track_id"]],
        "audio_sha256": measured.sha256,
        "sample_rate_hz": measured.sample_rate_hz,
        "channels": measured.channels,
        "duration_s": measured.duration_s,
    }


def _segments(
    track_id: str, measured: Examined, spec: SegmentSpec, splits: Mapping[str, str]
) -> Iterator[Row]:
    for window, sha256 in measured.segments:
        yield {
            "segment_id": f"{track_id}:{window.segment_index:04d}",
            "track_id": track_id,
            "segment_index": window.segment_index,
            "start_s": window.start / spec.sample_rate_hz,
            "seconds_total": measured.duration_s,
            "samples": spec.samples,
            "valid_samples": window.valid_samples,
            "frames": spec.frames,
            "valid_frames": window.valid_frames,
            "split": splits[track_id],
            "segment_sha256": sha256,
        }


# ---------------------------------------------------------------- reading segments back


def _select(segments: pl.DataFrame, segment_ids: Iterable[str]) -> pl.DataFrame:
    wanted = pl.DataFrame({"segment_id": list(segment_ids)}, schema={"segment_id": pl.String})
    missing = wanted.join(segments, on="segment_id", how="anti", maintain_order="left")
    if missing.height:
        raise TdaError(
            f"{missing.height} segment ids are not in the index, "
            f"first {shown(missing['segment_id'][0])}; take them from its table segments."
        )
    return wanted.join(segments, on="segment_id", how="left", maintain_order="left")


def _cut_all(
    track: Row, segments: Iterable[dict[str, Any]], spec: SegmentSpec, manifest: str
) -> Iterator[tuple[dict[str, Any], Samples]]:
    uri = resolve(manifest, track["audio"])
    audio = open_audio(uri, spec)
    if audio.sha256 != track["audio_sha256"]:
        raise TdaError(
            f"{uri} (track {shown(track['track_id'])}) is not the file that was indexed: its "
            f"sha256 is {audio.sha256}, the index has {track['audio_sha256']}. Put the file back, "
            "or make the dataset index again."
        )
    cuts = {window.segment_index: window for window in windows(audio.samples.shape[1], spec)}
    for segment in segments:
        window = cuts.get(segment["segment_index"])
        if window is None or not _agree(segment, window, spec):
            raise TdaError(
                f"segment {shown(segment['segment_id'])} was cut with other settings than {spec}; "
                "make the dataset index again with these, or use those it was made with."
            )
        yield segment, cut(audio.samples, window, spec)


def _agree(segment: Row, window: Window, spec: SegmentSpec) -> bool:
    return bool(
        segment["samples"] == spec.samples
        and segment["frames"] == spec.frames
        and segment["valid_samples"] == window.valid_samples
        and segment["start_s"] == window.start / spec.sample_rate_hz
    )
