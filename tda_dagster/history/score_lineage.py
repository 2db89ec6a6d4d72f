"""The way from a query's score back to the audio files it stands on.

What belongs here: finding the scores that are meant, and which files of each artifact behind them
bear on this query and these segments.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from safetensors import SafetensorError, safe_open

from tda_dagster.corpus.shards import shards
from tda_dagster.history import HistoryError
from tda_dagster.history.ancestors import File, Node, ancestor_tree
from tda_dagster.store import Artifact, Ref
from tda_dagster.store.lineage import ancestry
from tda_dagster.store.snapshots import StoreView

SCORES = "attribution/scores"
QUERIES = "cohort/queries"
_MOST_NAMES = 40


@dataclass(frozen=True)
class Influence:
    """A training track by its most influential segment. `is_kept` says whether the bytes of its
    audio file are those the study recorded: None where the recordings are kept elsewhere."""

    track_id: str
    title: str
    composer: str
    rightsholder: str
    segment_id: str
    segment_sha256: str
    score: float
    score_se: float | None
    rank: int
    audio: str
    audio_sha256: str
    is_kept: bool | None


@dataclass(frozen=True)
class ScoreLineage:
    """Where the scores of a query under a method come from."""

    query_id: str
    kind: str
    prompt: str
    seed: int | None
    method_id: str
    segments: int
    influences: tuple[Influence, ...]
    tree: Node


def score_lineage(
    view: StoreView,
    query_id: str,
    *,
    method: str | None = None,
    preferred: Sequence[str] = (),
    segment: str | None = None,
    track: str | None = None,
    top: int = 5,
) -> ScoreLineage:
    """The lineage of a query's scores, and of its `top` most influential tracks or of the one
    that `segment` or `track` names.

    `method` is a method's id, its beginning, or its name; without it the only one is taken, or the
    only one whose name is the first in `preferred`. Raises `HistoryError`, listing what there is,
    for a query, method, segment or track that there is not, or that is not the only one.
    """
    cohort, query = _query(view, query_id)
    ref = _scores(view, query_id, cohort, method, preferred)
    scores = pl.read_parquet(view.artifact(ref.digest).path("scores.parquet"))
    scores = scores.filter(query_id=query_id)
    if scores.is_empty():
        raise HistoryError(
            f"{query_id} has no scores in {SCORES} [{ref.recipe.partition}]: they are older than "
            f"the query. Run `tda run {_cohort(ref)}`"
        )
    index = _behind(view, ref, "dataset/index")
    chosen = _influences(view, ref, index, scores, segment=segment, track=track, top=top)
    return ScoreLineage(
        query_id=query_id,
        kind=query["kind"],
        prompt=query["prompt"],
        seed=query["seed"],
        method_id=_method_id(ref),
        segments=scores.height,
        influences=tuple(chosen),
        tree=ancestor_tree(view, ref, lambda r: _files(view, r, query_id, chosen, index)),
    )


def _query(view: StoreView, query_id: str) -> tuple[str, dict[str, Any]]:
    """The cohort of a query, and its row."""
    known: list[str] = []
    for cohort in view.partitions(QUERIES):
        ref = view.head(QUERIES, cohort)
        assert ref is not None
        queries = pl.read_parquet(view.artifact(ref.digest).path("queries.parquet"))
        for row in queries.filter(query_id=query_id).iter_rows(named=True):
            return cohort, row
        known += queries["query_id"].to_list()
    raise HistoryError(f"there is no query {query_id!r}; there are: {_listed(known)}")


def _scores(
    view: StoreView, query_id: str, cohort: str, method: str | None, preferred: Sequence[str]
) -> Ref:
    """The live scores of the query that are meant."""
    found = [
        ref
        for partition in view.partitions(SCORES)
        if partition.partition("|")[0] == cohort
        and (ref := view.head(SCORES, partition)) is not None
    ]
    if not found:
        raise HistoryError(f"{query_id} has not been attributed; run `tda run {cohort}`")
    chosen = found
    if method is not None:
        exact = [ref for ref in found if _method_id(ref) == method]
        chosen = exact or [
            ref for ref in found if method == _method(ref) or _method_id(ref).startswith(method)
        ]
    elif len(found) > 1:
        for name in preferred:
            if named := [ref for ref in found if _method(ref) == name]:
                chosen = named
                break
    if len(chosen) == 1:
        return chosen[0]
    listed = _listed(sorted(_method_id(ref) for ref in chosen or found))
    if method is None:
        raise HistoryError(f"{query_id} has scores by several methods; name one: {listed}")
    if not chosen:
        raise HistoryError(f"{query_id} has no scores by {method!r}; there are: {listed}")
    raise HistoryError(f"{method!r} is the beginning of several methods; name one: {listed}")


def _influences(
    view: StoreView,
    ref: Ref,
    index: Artifact | None,
    scores: pl.DataFrame,
    *,
    segment: str | None,
    track: str | None,
    top: int,
) -> list[Influence]:
    if index is None:
        raise HistoryError(
            f"the dataset that {SCORES} [{ref.recipe.partition}] was made from is no longer in the "
            f"store; run `tda run {_cohort(ref)}`"
        )
    segments = pl.read_parquet(index.path("segments.parquet"))
    tracks = pl.read_parquet(index.path("tracks.parquet"))
    rows = (
        scores.select("segment_id", "score", "score_se", "rank")
        .join(segments.select("segment_id", "segment_sha256", "track_id"), on="segment_id")
        .join(tracks, on="track_id")
        .sort("rank", "segment_id")
    )
    if segment is not None:
        rows = rows.filter(segment_id=segment)
        if rows.is_empty():
            raise HistoryError(_no_segment(segment, segments))
    if track is not None:
        rows = rows.filter(track_id=track)
        if rows.is_empty():
            raise HistoryError(_no_track(track, tracks, segments))
    best = rows.unique("track_id", keep="first", maintain_order=True).head(top)
    kept = _kept_audio(_behind(view, ref, "dataset/manifest"))
    return [
        Influence(
            **{name: row[name] for name in _COPIED},
            is_kept=None if kept is None else kept.get(row["audio"]) == row["audio_sha256"],
        )
        for row in best.iter_rows(named=True)
    ]


_COPIED = (
    "track_id",
    "title",
    "composer",
    "rightsholder",
    "segment_id",
    "segment_sha256",
    "score",
    "score_se",
    "rank",
    "audio",
    "audio_sha256",
)


def _no_segment(segment: str, segments: pl.DataFrame) -> str:
    known = segments.filter(segment_id=segment)
    if known.height:
        return (
            f"segment {segment!r} is held out: the model did not learn from it, so it has no score"
        )
    near = [s for s in segments["segment_id"] if s.startswith(segment.partition(":")[0])]
    of_track = f"; its track has {_listed(near)}" if near else ""
    return (
        f'there is no segment {segment!r}{of_track}. All are listed by `tda sql "select segment_id '
        'from dim_segment"`'
    )


def _no_track(track: str, tracks: pl.DataFrame, segments: pl.DataFrame) -> str:
    if segments.filter(track_id=track).height:
        return f"track {track!r} is held out: the model did not learn from it, so it has no scores"
    near = [t for t in tracks["track_id"] if track.lower() in t.lower()]
    like = f"; alike are {_listed(near)}" if near else ""
    return (
        f'there is no track {track!r}{like}. All are listed by `tda sql "select track_id, title '
        'from dim_track"`'
    )


def _kept_audio(manifest: Artifact | None) -> dict[str, str] | None:
    """Audio file, as the manifest calls it → sha256 of what `dataset/manifest` recorded."""
    if manifest is None:
        return None
    if manifest.has("audio_files.parquet"):
        recorded = pl.read_parquet(manifest.path("audio_files.parquet"))
        return dict(recorded.select("audio", "audio_sha256").iter_rows())
    return {name: entry.digest for name, entry in manifest.files.items()}


def _files(
    view: StoreView,
    ref: Ref,
    query_id: str,
    influences: Iterable[Influence],
    index: Artifact | None,
) -> Iterator[File]:
    """The files of an artifact that bear on the query and on its most influential segment."""
    artifact = view.artifact(ref.digest)
    first = next(iter(influences), None)

    def file(name: str, meaning: str) -> Iterator[File]:
        if artifact.has(name):
            yield File(name, artifact.files[name].digest, meaning)

    match ref.recipe.asset:
        case "attribution/scores":
            yield from file("scores.parquet", "the scores")
        case "cohort/queries":
            yield from file(f"audio/{query_id}.flac", "the query")
        case "unlearned/checkpoints":
            yield from file(f"{query_id}.safetensors", "the weight delta of unlearning the query")
        case "base/fisher":
            yield from file("fisher.safetensors", "the Fisher information")
        case "dataset/latents" if first is not None and index is not None:
            if (name := _shard(artifact, ref, first.segment_id, index)) is not None:
                yield from file(name, f"holds {first.segment_id}")
        case "dataset/index":
            yield from file("segments.parquet", "the segments and their sha256")


def _shard(artifact: Artifact, ref: Ref, segment_id: str, index: Artifact) -> str | None:
    """The file of `dataset/latents` that holds the segment."""
    settings = ref.recipe.config.get("dataset", {})
    if (size := settings.get("shard_segments")) is None:
        return None
    segments = pl.read_parquet(index.path("segments.parquet"))
    plan = shards(segments, size, settings.get("manifest"))
    held_by = [shard for shard, rows in plan if segment_id in rows["segment_id"]]
    name = f"{held_by[0]}.safetensors" if held_by else ""
    if not artifact.has(name):
        return None
    try:  # the file itself has the last word
        with safe_open(artifact.path(name), framework="np") as file:
            header = json.loads((file.metadata() or {}).get("segments", "{}"))
    except SafetensorError:
        return None
    return name if segment_id in header.get("segment_ids", ()) else None


def _behind(view: StoreView, ref: Ref, asset: str) -> Artifact | None:
    """The artifact of `asset` that the ref was made from, directly or not."""
    for edge in ancestry([ref], view.refs()):
        if edge.source is not None and edge.source.recipe.asset == asset:
            return view.artifact(edge.source.digest)
    return None


def _method(ref: Ref) -> str:
    return str(ref.recipe.config.get("method", {}).get("method", ""))


def _method_id(ref: Ref) -> str:
    return ref.recipe.partition.partition("|")[2]


def _cohort(ref: Ref) -> str:
    return ref.recipe.partition.partition("|")[0]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    shown = ", ".join(names[:_MOST_NAMES]) or "none"
    return f"{shown} and {more} more" if more > 0 else shown
