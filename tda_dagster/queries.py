"""A cohort's queries before anything is computed of them: what can never run is refused here.

What belongs here: holding declared queries against the files, the dataset and the model that there
are. The form of a cohort's file is in `workspace`, the rules of recordings in `corpus.pieces`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from tda_dagster.corpus import AudioError, SegmentSpec
from tda_dagster.corpus.pieces import Piece, PieceError, open_piece
from tda_dagster.diffusion.audio_format import AudioFormat, spec_for
from tda_dagster.errors import TdaError
from tda_dagster.evaluation.eligibility import ELIGIBLE
from tda_dagster.store import Artifact
from tda_dagster.workspace import Query, Targets, Workspace, piece_id

_SHOWN_SILENT = 8


class QueryError(TdaError):
    """A query that cannot be attributed."""


@dataclass(frozen=True)
class Length:
    """The windows of a recording under the model: `seconds` in all, of which `left_out_s` at the
    end are too short for a window; `silent` are the indices of those that are not attributed."""

    seconds: float
    windows: int
    window_s: float
    silent: tuple[int, ...]
    left_out_s: float

    def __str__(self) -> str:
        text = f"{self.seconds:.1f} s, "
        text += "one window" if self.windows == 1 else f"{self.windows} windows"
        text += f" of {self.window_s:.2f} s"
        if self.windows > 1:
            text += ", each attributed by itself"
        if self.silent:
            listed = ", ".join(map(str, self.silent[:_SHOWN_SILENT]))
            more = ", …" if len(self.silent) > _SHOWN_SILENT else ""
            text += f"; silent and not attributed: {len(self.silent)} ({listed}{more})"
        if self.left_out_s >= 0.005:
            text += (
                f"; the last {self.left_out_s:.2f} s are too short for a window and are left out"
            )
        return text


@dataclass(frozen=True)
class Checked:
    """What is known of a query: the length of a recording, and whether something could not be
    checked because the study has not been materialised that far."""

    length: Length | None = None
    is_open: bool = False


class QueryCheck:
    """Holds queries against a workspace as it is now."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def __call__(self, query: Query, where: str) -> Checked:
        """Raises QueryError beginning with `where` for a query that cannot be attributed."""
        if query.kind == "audio":
            return self._audio(query, where)
        if query.kind == "segment":
            return Checked(is_open=not self.has_segment(query))
        return self._generated(query, where)

    def targets_left(self, targets: Targets) -> int | None:
        """How many segments of the live dataset may be chosen, less those asked for; None while no
        dataset has been indexed."""
        index = self._index
        if index is None:
            return None
        tracks, segments = (
            pl.read_parquet(index.path(f"{name}.parquet")) for name in ("tracks", "segments")
        )
        return ELIGIBLE[targets.among](tracks, segments).height - targets.count

    def has_segment(self, query: Query) -> bool:
        """Whether a query's segment is in the dataset as it was last indexed."""
        return self._segments is not None and query.segment in self._segments

    @property
    def knows_segments(self) -> bool:
        """Whether a dataset has been indexed."""
        return self._segments is not None

    def _audio(self, query: Query, where: str) -> Checked:
        spec = self._spec
        piece = open_declared(self._workspace, query, spec or self._any_model, where)
        if spec is None:
            return Checked(is_open=True)
        silent = tuple(w.window.segment_index for w in piece.windows() if w.silent)
        length = Length(
            seconds=piece.audio.shape[1] / spec.sample_rate_hz,
            windows=len(piece.cuts),
            window_s=spec.samples / spec.sample_rate_hz,
            silent=silent,
            left_out_s=piece.left_out_s,
        )
        return Checked(length)

    def _generated(self, query: Query, where: str) -> Checked:
        shortest = self._workspace.settings.dataset.min_seconds
        if query.seconds is None:
            return Checked()
        if query.seconds < shortest:
            raise QueryError(
                f"{where}seconds: {query.seconds:g} s is shorter than the shortest piece, "
                f"{shortest:g} s (dataset.min_seconds)"
            )
        if self._spec is None:
            return Checked(is_open=True)
        window = self._spec.samples / self._spec.sample_rate_hz
        if query.seconds > window:
            raise QueryError(
                f"{where}seconds: {query.seconds:g} s is longer than the model generates, "
                f"{window:.2f} s"
            )
        return Checked()

    @cached_property
    def _spec(self) -> SegmentSpec | None:
        """How the model of the settings cuts recordings, once that is known."""
        settings = self._workspace.settings
        head = self._workspace.store.head("base/autoencoder")
        if head is None:
            return None
        wanted = {
            "pipeline": settings.model.pipeline,
            "training": {"frames": settings.model.training.frames},
        }
        if head.recipe.config.get("model") != wanted:
            return None
        artifact = self._workspace.store.artifact(head.digest)
        return spec_for(AudioFormat.load(artifact.path("audio_format.json")), settings.dataset)

    @property
    def _any_model(self) -> SegmentSpec:
        """Stands in for the model's while that is not known: the rules that hold for all models."""
        settings, rate = self._workspace.settings.dataset, 44_100
        return SegmentSpec(
            sample_rate_hz=rate,
            channels=2,
            samples=round(max(10.0, settings.min_seconds) * rate) + 1,
            hop_length=1,
            min_seconds=settings.min_seconds,
            silence_dbfs=settings.silence_dbfs,
        )

    @cached_property
    def _segments(self) -> frozenset[str] | None:
        if self._index is None:
            return None
        path = self._index.path("segments.parquet")
        return frozenset(pl.read_parquet(path, columns=["segment_id"])["segment_id"])

    @cached_property
    def _index(self) -> Artifact | None:
        head = self._workspace.store.head("dataset/index")
        return None if head is None else self._workspace.store.artifact(head.digest)


def audio_file(workspace: Workspace, query: Query, where: str) -> Path:
    """The file of a query that is a recording; raises QueryError where there is none."""
    assert query.audio is not None
    path = workspace.root / query.audio
    if path.is_file():
        return path
    what = "is not a regular file" if path.exists() else "there is no such audio file"
    raise QueryError(f"{where}audio: {path}: {what}; correct the path")


def open_declared(workspace: Workspace, query: Query, spec: SegmentSpec, where: str) -> Piece:
    """Decode a query's recording; raises QueryError beginning with `where` for one that cannot be
    attributed."""
    path = audio_file(workspace, query, where)
    try:
        return open_piece(str(path), spec)
    except (AudioError, PieceError) as error:
        raise QueryError(f"{where}audio: {error}") from error


def check_cohort(workspace: Workspace, name: str) -> "CohortCheck":
    """Hold all queries of a cohort against the workspace. Raises QueryError naming the file, the
    query's number and the key."""
    check, lengths, is_open = QueryCheck(workspace), {}, False
    cohort = workspace.cohort(name)
    if cohort.targets is not None:
        left = check.targets_left(cohort.targets)
        return CohortCheck({}, is_open=left is None or left < 0)
    for number, query in enumerate(cohort.queries):
        found = check(query, declared_at(workspace, name, number))
        is_open |= found.is_open
        if found.length is not None:
            lengths[f"{piece_id(name, number)}  {query.audio}"] = found.length
    return CohortCheck(lengths, is_open)


def check_segments(workspace: Workspace, name: str) -> None:
    """Raises QueryError for a query of a segment that the live dataset does not have, and for more
    targets than it has segments for."""
    check, targets = QueryCheck(workspace), workspace.cohort(name).targets
    if not check.knows_segments:
        return
    if targets is not None and (left := check.targets_left(targets) or 0) < 0:
        raise QueryError(too_few_targets(workspace, name, targets, targets.count + left))
    for number, query in enumerate(workspace.cohort(name).queries):
        if query.kind == "segment" and not check.has_segment(query):
            raise QueryError(no_such_segment(declared_at(workspace, name, number), query))


def count_windows(workspace: Workspace, name: str) -> int:
    """How many queries a cohort is attributed as: targets, or pieces by their windows that are not
    silent, as far as these are known."""
    cohort = workspace.cohort(name)
    if cohort.targets is not None:
        return cohort.targets.count
    lengths = check_cohort(workspace, name).lengths.values()
    return len(cohort.queries) + sum(n.windows - len(n.silent) - 1 for n in lengths)


def too_few_targets(workspace: Workspace, cohort: str, targets: Targets, found: int) -> str:
    """The message for more targets than there are segments to choose from."""
    return (
        f"{workspace.cohort_file(cohort)}: targets.count: {targets.count} targets are asked for "
        f"among {found} segments ({targets.among}); lower it"
    )


def no_such_segment(where: str, query: Query) -> str:
    """The message for a query of a segment that the dataset does not have."""
    return (
        f"{where}segment: {query.segment!r} is not in the dataset; its segments are listed by "
        '`tda sql "select segment_id from dim_segment"`'
    )


def declared_at(workspace: Workspace, cohort: str, number: int) -> str:
    """Where a query is declared, as errors begin: file and number."""
    return f"{workspace.cohort_file(cohort)}: queries.{number}."


@dataclass(frozen=True)
class CohortCheck:
    """The lengths of a cohort's recordings by piece, and whether something could not be checked
    because the study has not been materialised that far."""

    lengths: Mapping[str, Length]
    is_open: bool
