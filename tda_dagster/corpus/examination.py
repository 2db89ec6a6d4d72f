"""Examining audio files: each is decoded once, measured and cut into segments.

What belongs here: what is found out about one file, whatever the manifest says of it, and the table
that keeps that. What follows for the dataset is in `index`.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import polars as pl

from tda_dagster.corpus.audio import AudioError, open_audio
from tda_dagster.corpus.location import LocationError, resolve
from tda_dagster.corpus.outages import Outages
from tda_dagster.corpus.rejects import RejectReason
from tda_dagster.corpus.segments import SegmentSpec, Window, cut, segment_sha256, windows
from tda_dagster.faults import about
from tda_dagster.object_storage import ObjectStorageError
from tda_dagster.quoting import shown

_SEGMENT = pl.Struct(
    [
        pl.Field("segment_index", pl.Int64),
        pl.Field("start", pl.Int64),
        pl.Field("valid_samples", pl.Int64),
        pl.Field("valid_frames", pl.Int64),
        pl.Field("sha256", pl.String),
    ]
)
_COLUMNS: dict[str, pl.DataType] = {
    "audio": pl.String(),
    "sha256": pl.String(),
    "sample_rate_hz": pl.Int64(),
    "channels": pl.Int64(),
    "duration_s": pl.Float64(),
    "segments": pl.List(_SEGMENT),
    "reason": pl.String(),
    "detail": pl.String(),
}
EXAMINED_SCHEMA = pl.Schema(_COLUMNS)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Examined:
    """What the tables say of a good file. Rate, channels and duration are the file's own; each
    segment has the sha256 of its samples."""

    sha256: str
    sample_rate_hz: int
    channels: int
    duration_s: float
    segments: tuple[tuple[Window, str], ...]


@dataclass(frozen=True)
class Unusable:
    """Why a file cannot be used. `sha256` is that of its bytes; None where they could not be had:
    then another attempt may succeed though the file has not changed."""

    reason: RejectReason
    detail: str
    sha256: str | None


Outcome = Examined | Unusable


class Examiner:
    """Examines files of a manifest under `spec`; may be shared by threads."""

    def __init__(self, manifest: str, spec: SegmentSpec) -> None:
        self._manifest, self._spec = manifest, spec
        self._outages = Outages()

    def examine(self, audio: str, sha256: str | None = None) -> Outcome:
        """What is to be known of the file `audio` (as in the manifest). `sha256` is what its bytes
        were when they were last read, if they were.

        A file that cannot be had is unusable, whatever the cause. Raises `ObjectStorageError`
        where not a file but the object store cannot be reached.
        """
        with about(f"file {shown(audio)}"):
            try:
                outcome = _examine(resolve(self._manifest, audio), self._spec)
            except AudioError as error:  # not handed on: its traceback holds the decoded file
                settled = not isinstance(error.__cause__, LocationError)
                outcome = Unusable(error.reason, error.detail, sha256 if settled else None)
            except ObjectStorageError as error:
                self._outages.tolerate(error)
                return Unusable(RejectReason.UNREADABLE, error.reason, None)
        self._outages.over()
        return outcome

    def examine_all(
        self,
        files: Mapping[str, str | None],
        *,
        workers: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Outcome]:
        """The outcome of each of the `files`, which are names with the sha256 of their bytes where
        that is known. `progress` is called with (files done, files). `workers` is a number of
        threads (decoding, resampling and hashing leave Python's lock alone), each holding one
        decoded file; it changes no outcome.
        """
        outcomes: dict[str, Outcome] = {}
        in_order = _in_order(lambda file: self.examine(*file), files.items(), workers)
        with closing(in_order) as examined:
            for audio, outcome in zip(files, examined, strict=True):
                outcomes[audio] = outcome
                if progress is not None:
                    progress(len(outcomes), len(files))
        return outcomes


def examined_table(outcomes: Mapping[str, Outcome]) -> pl.DataFrame:
    """The outcomes as a table, sorted by file; `outcomes_of` reads it."""
    rows = [_row(audio, outcomes[audio]) for audio in sorted(outcomes)]
    return pl.DataFrame(rows, schema=EXAMINED_SCHEMA)


def outcomes_of(table: pl.DataFrame) -> dict[str, Outcome]:
    """The outcomes in a table of `examined_table`, by file."""
    return {row["audio"]: _outcome(row) for row in table.iter_rows(named=True)}


def _examine(uri: str, spec: SegmentSpec) -> Outcome:
    audio = open_audio(uri, spec)
    cuts = windows(audio.samples.shape[1], spec)
    if not cuts:
        return Unusable(
            RejectReason.TOO_SHORT,
            f"it is {audio.duration_s:.3f} s long, the shortest segment is {spec.min_seconds:g} s",
            audio.sha256,
        )
    peak = float(np.abs(audio.samples).max())
    if peak < 10 ** (spec.silence_dbfs / 20):
        level = f"{20 * np.log10(peak):.1f} dBFS" if peak else "digital zero"
        return Unusable(
            RejectReason.SILENT,
            f"its peak is {level}, below the threshold of {spec.silence_dbfs:g} dBFS",
            audio.sha256,
        )
    return Examined(
        sha256=audio.sha256,
        sample_rate_hz=audio.sample_rate_hz,
        channels=audio.channels,
        duration_s=audio.duration_s,
        segments=tuple(
            (window, segment_sha256(cut(audio.samples, window, spec))) for window in cuts
        ),
    )


def _row(audio: str, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Unusable):
        why = {"reason": outcome.reason.value, "detail": outcome.detail}
        return {"audio": audio, "sha256": outcome.sha256, **why}
    facts = {name: getattr(outcome, name) for name in ("sample_rate_hz", "channels", "duration_s")}
    segments = [{**asdict(window), "sha256": sha256} for window, sha256 in outcome.segments]
    return {"audio": audio, "sha256": outcome.sha256, **facts, "segments": segments}


def _outcome(row: Mapping[str, Any]) -> Outcome:
    if row["reason"] is not None:
        return Unusable(RejectReason(row["reason"]), row["detail"], row["sha256"])
    segments = []
    for segment in row["segments"]:
        sha256 = segment.pop("sha256")
        segments.append((Window(**segment), sha256))
    return Examined(
        sha256=row["sha256"],
        sample_rate_hz=row["sample_rate_hz"],
        channels=row["channels"],
        duration_s=row["duration_s"],
        segments=tuple(segments),
    )


def _in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int
) -> Generator[_Result, None, None]:
    """`function` of every item, in the order of `items`, with a few items under way at a time."""
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[_Result]] = deque()
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
