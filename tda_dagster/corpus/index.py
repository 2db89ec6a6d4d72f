"""The dataset index: the tables `tracks`, `segments` and `rejects`, made from a manifest and read.

Belongs here: examining every file of a manifest, the tables' schemas, and reading segments' audio
back. What a row, a window or a reject is, is said in the modules this one puts together.
"""

import itertools
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import polars as pl

from tda_dagster.corpus.audio import AudioError, open_audio
from tda_dagster.corpus.location import resolve
from tda_dagster.corpus.manifest import ManifestRow, ManifestRows
from tda_dagster.corpus.rejects import Reject, RejectReason, TooManyRejects, rejects_table, shown
from tda_dagster.corpus.segments import Samples, SegmentSpec, Window, cut, segment_sha256, windows
from tda_dagster.corpus.split import assign_splits, check_training
from tda_dagster.errors import TdaError

Row = Mapping[str, Any]

_Item = TypeVar("_Item")
_Outcome = TypeVar("_Outcome")

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
    """Decode every file of a manifest once, measure it and cut it into segments.

    A `version_of` that names no track of the index (or the track itself) is dropped together with
    `version_kind` and recorded in `rejects` as unknown_version_of; the track stays, since a model
    was trained on it all the same, and it does not count against `max_reject_fraction`. Nor do the
    tracks `taken_down`, by id: their files are not opened, and `rejects` lists them.

    `heldout_fraction` and `seed`: see `split.assign_splits`. `progress` is called with (files done,
    files) in manifest order. `workers` is a number of threads (decoding, resampling and hashing
    leave Python's lock alone), each holding one decoded file; it does not change the tables.

    Raises `TooManyRejects`, with all rejects, if more than `max_reject_fraction` of all rows are
    left out, and `NothingToTrainOn` if no track is left or all are held out.
    """
    _check_settings(heldout_fraction, max_reject_fraction, workers)
    rejects = list(rows.rejects)
    wanted = [(line, row) for line, row in rows.rows if row["track_id"] not in taken_down]
    examined: list[tuple[int, ManifestRow, _Examined]] = []

    def examine(item: tuple[int, ManifestRow]) -> _Examined | Reject:
        line, row = item
        try:
            return _examine(resolve(rows.uri, row["audio"]), spec)
        except AudioError as error:  # not handed on: its traceback holds the decoded file
            detail = f"{shown(row['audio'])}: {error.detail}"
            return Reject(line, error.reason, detail, row["track_id"], row["audio"])

    ids = [row["track_id"] for _, row in wanted]
    check_training(rows, assign_splits([row for _, row in rows.rows], ids, heldout_fraction, seed))
    with closing(_in_order(examine, wanted, workers)) as outcomes:
        for done, ((line, row), outcome) in enumerate(zip(wanted, outcomes, strict=True), 1):
            if isinstance(outcome, Reject):
                rejects.append(outcome)
            else:
                examined.append((line, row, outcome))
            if progress is not None:
                progress(done, len(wanted))

    if rejects and len(rejects) / rows.total > max_reject_fraction:
        raise TooManyRejects(rows.uri, rejects, rows.total, max_reject_fraction)
    kept = {row["track_id"] for _, row, _ in examined}
    splits = assign_splits([row for _, row in rows.rows], kept, heldout_fraction, seed)
    check_training(rows, splits, rejects)
    rejects += _unknown_versions(examined, kept)
    rejects += [
        Reject(line, RejectReason.TAKEN_DOWN, "left out by request", row["track_id"], row["audio"])
        for line, row in rows.rows
        if row["track_id"] in taken_down
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


# ---------------------------------------------------------------- examining files


@dataclass(frozen=True)
class _Examined:
    """What the tables say of a good file."""

    sha256: str
    sample_rate_hz: int
    channels: int
    duration_s: float
    segments: list[tuple[Window, str]]


def _examine(uri: str, spec: SegmentSpec) -> _Examined:
    audio = open_audio(uri, spec)
    cuts = windows(audio.samples.shape[1], spec)
    if not cuts:
        raise AudioError(
            uri,
            RejectReason.TOO_SHORT,
            f"it is {audio.duration_s:.3f} s long, the shortest segment is {spec.min_seconds:g} s",
        )
    peak = float(np.abs(audio.samples).max())
    if peak < 10 ** (spec.silence_dbfs / 20):
        level = f"{20 * np.log10(peak):.1f} dBFS" if peak else "digital zero"
        raise AudioError(
            uri,
            RejectReason.SILENT,
            f"its peak is {level}, below the threshold of {spec.silence_dbfs:g} dBFS",
        )
    return _Examined(
        sha256=audio.sha256,
        sample_rate_hz=audio.sample_rate_hz,
        channels=audio.channels,
        duration_s=audio.duration_s,
        segments=[(window, segment_sha256(cut(audio.samples, window, spec))) for window in cuts],
    )


def _in_order(
    function: Callable[[_Item], _Outcome], items: Iterable[_Item], workers: int
) -> Generator[_Outcome, None, None]:
    """`function` of every item, in the order of `items`, with a few items under way at a time."""
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[_Outcome]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _check_settings(heldout_fraction: float, max_reject_fraction: float, workers: int) -> None:
    if not 0 <= heldout_fraction < 1:
        raise TdaError(f"heldout_fraction must be at least 0 and below 1, not {heldout_fraction}.")
    if not 0 <= max_reject_fraction <= 1:
        raise TdaError(f"max_reject_fraction must lie in 0 ... 1, not {max_reject_fraction}.")
    if workers < 1:
        raise TdaError(f"workers must be at least 1, not {workers}.")


# ---------------------------------------------------------------- from examined files to tables


def _unknown_versions(
    examined: Iterable[tuple[int, ManifestRow, _Examined]], kept: Collection[str]
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
    row: ManifestRow, measured: _Examined, kept: Collection[str], splits: Mapping[str, str]
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
    track_id: str, measured: _Examined, spec: SegmentSpec, splits: Mapping[str, str]
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
