"""What differs between the attributions of two states of a study, and why.

What belongs here: comparing the scores and shares in two warehouses. Where a difference comes from
is found in `causes`.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tda_dagster.history.causes import Cause, find_causes, own_causes
from tda_dagster.history.content import SCORE_TABLES, content_tables, warehouse_ref
from tda_dagster.store import Ref
from tda_dagster.store.lineage import ancestry
from tda_dagster.store.snapshots import StoreView
from warehouse.build import build, query

TOP = 10
"""How many tracks count as the top."""
UNATTRIBUTED = "(unattributed)"

# Of a track, what people mean by "the track changed"; the audio is told by its sha256.
_TRACK_COLUMNS = (
    "audio_sha256",
    "title",
    "artist",
    "rightsholder",
    "composer",
    "collection",
    "caption",
    "licence",
    "split",
)


@dataclass(frozen=True)
class TrackPlace:
    """A track and its rank by share, before and after; None where it is not in the dataset."""

    track_id: str
    title: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class ShareChange:
    """A rightsholder's share before and after, as a fraction of the query's attribution."""

    rightsholder: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class ScoreChange:
    """A query's scores under a method, before and after.

    `spearman` is the rank correlation over the `segments` that both sides score, None where one
    side's are all equal. `entered` and `left` are tracks of the top ten by share. `is_same` says
    that scores and shares are equal to the last bit; `query_changed` that the query's own audio is
    another one.
    """

    query_id: str
    method_before: str
    method_after: str
    label: str
    is_same: bool
    query_changed: bool
    spearman: float | None
    segments: int
    segments_before: int
    segments_after: int
    entered: tuple[TrackPlace, ...]
    left: tuple[TrackPlace, ...]
    shares: tuple[ShareChange, ...]


@dataclass(frozen=True)
class TrackChange:
    """What changed about a track of both datasets."""

    track_id: str
    title: str
    column: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.column == "audio_sha256":
            return f"audio file of track {self.track_id} changed"
        return f"{self.column} of track {self.track_id}: {self.before!r} → {self.after!r}"


@dataclass(frozen=True)
class OneSided:
    """What only one of the two has."""

    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """Two states of a study, `before` and `after`, compared."""

    before: str
    after: str
    scores: tuple[ScoreChange, ...]
    queries: OneSided
    methods: OneSided
    tracks: OneSided
    changed_tracks: tuple[TrackChange, ...]
    causes: tuple[Cause, ...]
    notes: tuple[str, ...]

    @property
    def changed(self) -> list[ScoreChange]:
        return [score for score in self.scores if not score.is_same]


def compare(before: StoreView, before_name: str, after: StoreView, after_name: str) -> Difference:
    """Compare two states by what their warehouses hold.

    Queries are compared under the same method spec; a method that has one spec on each side, with
    other settings, is compared with itself. Raises `HistoryError` if a state has no warehouse.
    """
    old, new = (
        content_tables(before, before_name, SCORE_TABLES),
        content_tables(after, after_name, SCORE_TABLES),
    )
    methods = _matched_methods(old["dim_method"], new["dim_method"])
    scores = tuple(_score_changes(old, new, methods))
    changed_tracks = tuple(_changed_tracks(old["dim_track"], new["dim_track"]))
    tracks = _one_sided(old["dim_track"]["track_id"], new["dim_track"]["track_id"])
    ours, theirs = warehouse_ref(before, before_name), warehouse_ref(after, after_name)
    dataset_differs = bool(changed_tracks or tracks.before or tracks.after)
    pairs = list(_pairs(before, ours, after, theirs, scores, old, dataset_differs))
    # How shares come from scores is a setting of the warehouse itself.
    causes = [*find_causes(pairs, before, after), *_share_rule(ours, theirs)]
    return Difference(
        before=before_name,
        after=after_name,
        scores=scores,
        queries=_one_sided(old["dim_query"]["query_id"], new["dim_query"]["query_id"]),
        methods=_one_sided(
            [m for m in old["dim_method"]["method_id"] if m not in methods],
            [m for m in new["dim_method"]["method_id"] if m not in methods.values()],
        ),
        tracks=tracks,
        changed_tracks=changed_tracks,
        causes=tuple(causes),
        notes=(*_outdated(before, before_name, ours), *_outdated(after, after_name, theirs)),
    )


def _one_sided(before: Any, after: Any) -> OneSided:
    old, new = set(before), set(after)
    return OneSided(tuple(sorted(old - new)), tuple(sorted(new - old)))


def _matched_methods(before: pl.DataFrame, after: pl.DataFrame) -> dict[str, str]:
    """Method id before → after: the same, or the only other spec of the same method."""
    old, new = (dict(f.select("method_id", "method").iter_rows()) for f in (before, after))
    matched = {method_id: method_id for method_id in old if method_id in new}
    for method in sorted(set(old.values())):
        mine = [m for m, name in old.items() if name == method and m not in matched]
        others = [m for m, name in new.items() if name == method and m not in matched]
        if len(mine) == len(others) == 1:
            matched[mine[0]] = others[0]
    return matched


class _Side:
    """One warehouse, queried."""

    def __init__(self, tables: dict[str, pl.DataFrame]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "side.duckdb"
            build(path, tables)
            self._tracks = _grouped(
                query(
                    path,
                    "SELECT query_id, method_id, track_id, title, track_rank FROM v_track_share",
                )
            )
            self._shares = _grouped(
                query(
                    path,
                    "SELECT query_id, method_id, rightsholder, share, is_unattributed "
                    "FROM v_rightsholder_share",
                )
            )
            self._scores = _grouped(
                query(path, "SELECT query_id, method_id, segment_id, score FROM v_segment_share")
            )
        self.queries = dict(tables["dim_query"].select("query_id", "audio_sha256").iter_rows())

    def pairs(self) -> list[tuple[str, str]]:
        return sorted(self._scores)

    def scores(self, query_id: str, method_id: str) -> pl.DataFrame:
        return self._scores[query_id, method_id].select("segment_id", "score").sort("segment_id")

    def tracks(self, query_id: str, method_id: str) -> dict[str, tuple[str, int]]:
        """Track → title, rank."""
        rows = self._tracks[query_id, method_id].select("track_id", "title", "track_rank")
        return {track: (title, rank) for track, title, rank in rows.iter_rows()}

    def shares(self, query_id: str, method_id: str) -> dict[str, float]:
        rows = self._shares[query_id, method_id]
        return {
            UNATTRIBUTED if unattributed else name: share
            for name, share, unattributed in rows.select(
                "rightsholder", "share", "is_unattributed"
            ).iter_rows()
        }


def _grouped(frame: pl.DataFrame) -> dict[tuple[str, str], pl.DataFrame]:
    parts = frame.partition_by("query_id", "method_id", as_dict=True)
    return {(str(query_id), str(method)): part for (query_id, method), part in parts.items()}


def _score_changes(
    old: dict[str, pl.DataFrame], new: dict[str, pl.DataFrame], methods: dict[str, str]
) -> Iterator[ScoreChange]:
    before, after = _Side(old), _Side(new)
    labels = dict(new["dim_method"].select("method_id", "label").iter_rows())
    present = set(after.pairs())
    for query_id, mine in before.pairs():
        other = methods.get(mine)
        if other is None or (query_id, other) not in present:
            continue
        scores, scores_after = before.scores(query_id, mine), after.scores(query_id, other)
        common = scores.join(scores_after, on="segment_id", suffix="_after")
        entered, left = _top_changes(before.tracks(query_id, mine), after.tracks(query_id, other))
        shares = _share_changes(before.shares(query_id, mine), after.shares(query_id, other))
        query_changed = before.queries[query_id] != after.queries[query_id]
        yield ScoreChange(
            query_id=query_id,
            method_before=mine,
            method_after=other,
            label=labels[other],
            is_same=scores.equals(scores_after)
            and not query_changed
            and all(share.difference == 0 for share in shares),
            query_changed=query_changed,
            spearman=_spearman(common),
            segments=common.height,
            segments_before=scores.height,
            segments_after=scores_after.height,
            entered=entered,
            left=left,
            shares=shares,
        )


def _spearman(scores: pl.DataFrame) -> float | None:
    """Rank correlation of two columns of scores; ties share their mean rank."""
    ranks = scores.select(pl.col("score", "score_after").rank("average"))
    if ranks.height < 2 or any(column.n_unique() == 1 for column in ranks):
        return None
    return float(ranks.select(pl.corr("score", "score_after")).item())


def _top_changes(
    before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]
) -> tuple[tuple[TrackPlace, ...], tuple[TrackPlace, ...]]:
    """The tracks that entered and that left the top, by rank."""

    def place(track: str) -> TrackPlace:
        title = (after.get(track) or before[track])[0]
        ranks = (side[track][1] if track in side else None for side in (before, after))
        return TrackPlace(track, title, *ranks)

    def top(side: dict[str, tuple[str, int]]) -> list[str]:
        ranked = sorted((rank, track) for track, (_, rank) in side.items())
        return [track for _, track in ranked[:TOP]]

    was, now = top(before), top(after)
    return (
        tuple(place(track) for track in now if track not in was),
        tuple(place(track) for track in was if track not in now),
    )


def _share_changes(before: dict[str, float], after: dict[str, float]) -> tuple[ShareChange, ...]:
    """Everybody's share on both sides, largest change first."""
    changes = [
        ShareChange(name, before.get(name, 0.0), after.get(name, 0.0))
        for name in sorted(before | after)
    ]
    return tuple(sorted(changes, key=lambda change: -abs(change.difference)))


def _changed_tracks(before: pl.DataFrame, after: pl.DataFrame) -> Iterator[TrackChange]:
    columns = [c for c in _TRACK_COLUMNS if c in before.columns and c in after.columns]
    both = before.select("track_id", *columns).join(
        after.select("track_id", *columns), on="track_id", suffix="_after"
    )
    for row in both.sort("track_id").iter_rows(named=True):
        for column in columns:
            if row[column] != row[f"{column}_after"]:
                title = row["title_after"]
                yield TrackChange(
                    row["track_id"], title, column, row[column], row[f"{column}_after"]
                )


def _pairs(
    before: StoreView,
    ours: Ref,
    after: StoreView,
    theirs: Ref,
    scores: tuple[ScoreChange, ...],
    old: dict[str, pl.DataFrame],
    dataset_differs: bool,
) -> Iterator[tuple[Ref, Ref]]:
    """The artifacts behind what changed, before and after."""
    mine, others = _inputs(before, ours), _inputs(after, theirs)
    if dataset_differs and "dataset/index" in mine and "dataset/index" in others:
        yield mine["dataset/index"], others["dataset/index"]
    cohorts = dict(old["dim_query"].select("query_id", "cohort").iter_rows())
    seen = set()
    for score in scores:
        cohort = cohorts[score.query_id]
        names = [
            f"attribution/scores[{cohort}|{method}]"
            for method in (score.method_before, score.method_after)
        ]
        if score.is_same or names[0] in seen or names[0] not in mine or names[1] not in others:
            continue
        seen.add(names[0])
        yield mine[names[0]], others[names[1]]


def _inputs(view: StoreView, ref: Ref) -> dict[str, Ref]:
    """The refs that a ref was made from, by the names of the inputs."""
    edges = ancestry([ref], view.refs())
    return {e.name: e.source for e in edges if e.ref == ref and e.source is not None}


def _share_rule(before: Ref, after: Ref) -> list[Cause]:
    return [
        c for c in own_causes(before, after) if c.kind == "setting" and c.key.startswith("shares.")
    ]


def _outdated(view: StoreView, name: str, warehouse: Ref) -> Iterator[str]:
    """Whether the scores have moved on since the warehouse was built."""
    for partition in view.partitions("attribution/scores"):
        head = view.head("attribution/scores", partition)
        known = warehouse.recipe.inputs.get(f"attribution/scores[{partition}]")
        if head is not None and head.digest != known:
            yield (
                f"{name}: its warehouse is older than its scores of {partition}; "
                "`tda materialize warehouse` brings it up to date"
            )
            return
