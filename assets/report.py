"""Report: the answer as pages that people can read and listen to."""

import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import soundfile

from assets.base import loss_curve
from assets.dataset import manifest_uri, read_index, segment_spec
from assets.warehouse import CONTENT
from tda_dagster.attribution.methods import method_specs
from tda_dagster.corpus import DatasetIndex, SegmentSpec, iter_segments
from tda_dagster.history.content import lineage_tables
from tda_dagster.materialization import Job, study_asset
from tda_dagster.report.bench import read_bench, render_bench
from tda_dagster.report.contents import (
    UNATTRIBUTED,
    CohortReport,
    Influence,
    MethodReport,
    Provenance,
    QueryReport,
    Share,
    Sound,
    Window,
)
from tda_dagster.report.experiment import read_experiment, render_experiment
from tda_dagster.report.page import render_index, render_page
from tda_dagster.store import Artifact
from tda_dagster.workspace import Workspace
from warehouse.build import build, query

HEARD_S = 180.0
"""How much of a long piece is on its page, s."""


def _describe(artifact: Artifact) -> dict[str, Any]:
    return {"pages": ", ".join(artifact.entries)}


def _main_methods(settings: Any, workspace: Workspace) -> Mapping[str, Any]:
    return {"methods": [spec.method_id for spec in method_specs(workspace.settings)]}


def _lay_out(job: Job, artifact: Artifact) -> None:
    artifact.export(job.workspace.reports)


@study_asset(
    "report/pages",
    version="3",
    inputs=[
        "warehouse/duckdb",
        "dataset/manifest",
        "dataset/index",
        "base/autoencoder",
        "base/checkpoint",
        "evaluation/reconstruction",
    ],
    gathers=["cohort/queries"],
    settings=[
        "dataset.manifest",
        "dataset.min_seconds",
        "dataset.silence_dbfs",
        "report",
    ],
    fingerprint=_main_methods,
    finish=_lay_out,
    describe=_describe,
    kinds=["html"],
)
def pages(job: Job, out: Path) -> None:
    """One self-contained page per cohort: each query beside the tracks that shaped it, by the
    methods of the main job."""
    with _warehouse(job) as database:
        methods = _main_methods(job.settings, job.workspace)["methods"]
        cohorts = query(
            database,
            "SELECT DISTINCT cohort FROM v_query_summary WHERE list_contains(?, method_id) "
            "ORDER BY 1",
            [methods],
        )
        for number, cohort in enumerate(cohorts["cohort"]):
            page = render_page(_Reader(job, database, methods).cohort(cohort))
            (out / f"{cohort}.html").write_text(page, encoding="utf-8")
            job.progress(number + 1, cohorts.height)
        index = render_index("What shaped this music?", cohorts["cohort"].to_list())
        (out / "index.html").write_text(index, encoding="utf-8")


@contextmanager
def _warehouse(job: Job, content: Sequence[str] = CONTENT, **more: pl.DataFrame) -> Iterator[Path]:
    """The tables of `content` of the job's input and `more` tables as a database file, for as long
    as the block lasts."""
    artifact = job.inputs["warehouse/duckdb"]
    tables = {name: pl.read_parquet(artifact.path(f"{name}.parquet")) for name in content}
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "report.duckdb"
        build(database, tables | more)
        yield database


class _Reader:
    """Fills in a report's contents from the warehouse, the recordings and the queries."""

    def __init__(self, job: Job, database: Path, methods: Sequence[str]) -> None:
        self._job, self._database, self._main = job, database, list(methods)
        self._index: DatasetIndex = read_index(job.inputs["dataset/index"], manifest_uri(job))
        self._spec: SegmentSpec = segment_spec(job)

    def cohort(self, name: str) -> CohortReport:
        methods = self._rows(
            "SELECT DISTINCT m.* FROM dim_method m JOIN v_query_summary s USING (method_id) "
            "WHERE s.cohort = ? AND list_contains(?, method_id) ORDER BY method_id",
            name,
            self._main,
        )
        reconstruction = self._job.inputs["evaluation/reconstruction"]
        return CohortReport(
            cohort=name,
            methods=tuple(self._method(name, method) for method in methods),
            reconstruction=tuple(
                (row["metric"], row["value"], row["unit"])
                for row in self._rows(
                    "SELECT metric, avg(value) AS value, any_value(unit) AS unit "
                    "FROM fct_evaluation WHERE evaluation = 'reconstruction' GROUP BY 1 ORDER BY 1"
                )
            ),
            reconstruction_pictures=tuple(
                (picture, reconstruction.read_bytes(f"{picture}.png"))
                for picture in ("original", "reconstruction")
                if reconstruction.has(f"{picture}.png")
            ),
            loss_curve=loss_curve(self._job.inputs["base/checkpoint"]),
            dataset=self._facts(),
            provenance=self._provenance(name),
        )

    def _method(self, cohort: str, method: dict[str, Any]) -> MethodReport:
        pieces = self._rows(
            "SELECT * FROM v_piece_summary WHERE cohort = ? AND method_id = ? ORDER BY query_index",
            cohort,
            method["method_id"],
        )
        return MethodReport(
            method_id=method["method_id"],
            label=method["label"],
            config=json.loads(method["config"]),
            queries=tuple(self._piece(piece) for piece in pieces),
        )

    def _piece(self, piece: dict[str, Any]) -> QueryReport:
        key = (piece["piece_id"], piece["method_id"])
        is_whole = piece["windows"] == 1
        influences = self._rows(
            "SELECT v.*, s.score, s.score_se, t.caption, t.licence, t.audio_sha256, g.start_s, "
            "CASE WHEN ? THEN NULL ELSE q.start_s END AS window_start_s "
            "FROM v_piece_track_share v JOIN fct_score s ON s.query_id = v.best_query_id "
            "AND s.method_id = v.method_id AND s.segment_id = v.best_segment_id "
            "JOIN dim_query q ON q.query_id = v.best_query_id "
            "JOIN dim_track t USING (track_id) "
            "JOIN dim_segment g ON g.segment_id = v.best_segment_id "
            "WHERE v.piece_id = ? AND v.method_id = ? ORDER BY track_rank LIMIT "
            f"{int(self._job.settings.report.top_tracks)}",
            is_whole,
            *key,
        )
        sounds = self._segments([row["best_segment_id"] for row in influences])
        shares = self._rows(
            "SELECT * FROM v_piece_rightsholder_share "
            "WHERE piece_id = ? AND method_id = ? ORDER BY is_unattributed, share DESC, 1",
            *key,
        )
        windows = self._rows(
            "SELECT q.*, w.unattributed, s.top_title, s.top_track_share, s.top_rightsholder "
            "FROM v_piece_window w JOIN dim_query q USING (query_id) "
            "LEFT JOIN v_query_summary s ON s.query_id = w.query_id AND s.method_id = w.method_id "
            "WHERE w.piece_id = ? AND w.method_id = ? ORDER BY w.window_index",
            *key,
        )
        scores = self._rows(
            "SELECT score FROM fct_score WHERE query_id = ? AND method_id = ? ORDER BY rank", *key
        )
        found = self._rows(
            "SELECT metric, avg(value ORDER BY subject) AS value FROM fct_evaluation "
            "WHERE list_contains(?, subject) AND method_id = ? AND detail IN ('', 'timbre') "
            "GROUP BY metric",
            [window["query_id"] for window in windows],
            piece["method_id"],
        )
        trust = {
            name: piece[name] for name in ("prominence", "reliability") if piece[name] is not None
        }
        return QueryReport(
            query_id=piece["piece_id"],
            kind=piece["kind"],
            prompt=piece["prompt"],
            seed=windows[0]["seed"],
            seconds=piece["seconds"],
            sound=self._piece_sound(windows),
            influences=tuple(
                self._influence(row, sounds[row["best_segment_id"]]) for row in influences
            ),
            rightsholders=tuple(_share(row) for row in shares),
            scores=np.array([row["score"] for row in scores]),
            figures=trust | {row["metric"]: row["value"] for row in found},
            windows=() if is_whole else tuple(_window(row) for row in windows),
        )

    def _influence(self, row: dict[str, Any], sound: Sound) -> Influence:
        return Influence(
            rank=row["track_rank"],
            segment_id=row["best_segment_id"],
            sound=sound,
            **{
                name: row[name]
                for name in (
                    "track_id",
                    "title",
                    "artist",
                    "rightsholder",
                    "composer",
                    "collection",
                    "caption",
                    "licence",
                    "start_s",
                    "score",
                    "score_se",
                    "share",
                    "audio_sha256",
                    "window_start_s",
                )
            },
        )

    def _segments(self, segment_ids: list[str]) -> dict[str, Sound]:
        """The valid part of each segment, mixed to mono."""
        sounds = {}
        for segment, samples in iter_segments(self._index, self._spec, segment_ids):
            mono = samples[:, : segment["valid_samples"]].mean(axis=0)
            sounds[segment["segment_id"]] = Sound(mono, self._spec.sample_rate_hz)
        return sounds

    def _piece_sound(self, windows: Sequence[dict[str, Any]]) -> Sound:
        """The windows one after the other, mixed to mono: as many as fit into `HEARD_S`."""
        heard: list[np.ndarray] = []
        for window in windows:
            artifact = self._job.inputs[f"cohort/queries[{window['cohort']}]"]
            flac = artifact.read_bytes(f"audio/{window['query_id']}.flac")
            samples, rate = soundfile.read(io.BytesIO(flac), dtype="float32", always_2d=True)
            heard.append(samples.mean(axis=1))
            if window["start_s"] + window["seconds"] > HEARD_S:
                break
        return Sound(np.concatenate(heard), rate)

    def _facts(self) -> dict[str, str | float]:
        (row,) = self._rows(
            "SELECT count(*) AS tracks, count(*) FILTER (split = 'heldout') AS heldout, "
            "sum(duration_s) / 60 AS minutes, count(DISTINCT collection) AS collections, "
            "count(DISTINCT rightsholder) AS rightsholders FROM dim_track"
        )
        return {
            "tracks": row["tracks"],
            "held-out tracks": row["heldout"],
            "segments": self._index.segments.height,
            "minutes of music": round(row["minutes"], 1),
            "collections": row["collections"],
            "rightsholders": row["rightsholders"],
        }

    def _provenance(self, cohort: str) -> Provenance:
        rows = []
        for ref in self._job.store.heads():
            recipe = ref.recipe
            ours = recipe.partition.partition("|")[0] in ("", cohort)
            if ours and not recipe.asset.startswith(("report/", "method/")):
                rows.append((recipe.asset, recipe.partition, ref.digest, recipe.code_version))
        return Provenance(tuple(rows))

    def _rows(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        return query(self._database, sql, list(parameters)).to_dicts()


def _window(row: dict[str, Any]) -> Window:
    return Window(
        start_s=row["start_s"],
        seconds=row["seconds"],
        silent=row["silent"],
        top_title=row["top_title"],
        top_share=row["top_track_share"],
        top_rightsholder=row["top_rightsholder"],
        unattributed=row["unattributed"],
    )


def _share(row: dict[str, Any]) -> Share:
    """A rightsholder's share; one who is called as the unattributed share is told from it."""
    name = row["rightsholder"]
    if name == UNATTRIBUTED and not row["is_unattributed"]:
        name = f"“{name}”, a rightsholder"
    if row["is_unattributed"]:
        return Share(name, row["share"])
    return Share(name, row["share"], row["payout"], row["payout_low"], row["payout_high"])


def _lay_out_experiments(job: Job, artifact: Artifact) -> None:
    artifact.export(job.workspace.reports / "experiments")


@study_asset(
    "report/experiments",
    version="2",
    inputs=["warehouse/duckdb"],
    finish=_lay_out_experiments,
    describe=_describe,
    kinds=["html"],
)
def experiments(job: Job, out: Path) -> None:
    """One page per experiment that has been run: grids, agreement of methods, the paper's tables
    beside ours."""
    with _warehouse(job) as database:
        names = query(database, "SELECT DISTINCT experiment FROM dim_experiment ORDER BY 1")
        for name in names["experiment"]:
            page = render_experiment(read_experiment(database, name))
            (out / f"{name}.html").write_text(page, encoding="utf-8")
        index = render_index("Experiments", names["experiment"].to_list())
        (out / "index.html").write_text(index, encoding="utf-8")


@study_asset(
    "report/bench",
    version="3",
    inputs=["warehouse/duckdb"],
    finish=_lay_out,
    describe=_describe,
    kinds=["html"],
)
def bench(job: Job, out: Path) -> None:
    """The verdict on attribution methods, held against retraining, as one page; where ground truth
    has not been asked for it says how."""
    # Losses are by far the largest table, and no figure of the bench is read from them.
    content = [name for name in CONTENT if name != "fct_loss"]
    with _warehouse(job, content, **lineage_tables(job.store)) as database:
        page = render_bench(read_bench(database))
    (out / "bench.html").write_text(page, encoding="utf-8")
