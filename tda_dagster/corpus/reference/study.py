"""Rendering the study: a plan in parts, the audio files of each part, and the manifest.

Rendering holds Python's lock (parsing scores most of all), so parts are rendered in processes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tda_dagster.corpus.reference.arrangement import (
    Interpretation,
    choose_interpretation,
    choose_label,
    choose_performer,
    perform,
    transposed,
    with_other_instruments,
)
from tda_dagster.corpus.reference.captions import write_caption
from tda_dagster.corpus.reference.catalogue import (
    PlannedTrack,
    VersionKind,
    Work,
    load_catalogue,
    plan_study,
)
from tda_dagster.corpus.reference.chance import generator_for
from tda_dagster.corpus.reference.excerpts import Excerpt, cut_excerpts
from tda_dagster.corpus.reference.keys import transpose_key
from tda_dagster.corpus.reference.planting import Planted, choose_planted, plant, rendition
from tda_dagster.corpus.reference.scores import read_score
from tda_dagster.corpus.reference.synthesis import synthesise, write_flac
from tda_dagster.faults import about
from tda_dagster.worker_processes import worker_processes

MANIFEST_SCHEMA = {
    "track_id": pl.String,
    "audio": pl.String,
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
}


PART_TRACKS = 8
"""Works are rendered together until they have so many tracks: about two seconds of work."""


@dataclass(frozen=True)
class WorkTracks:
    """All tracks of the study that come from one work, so that its score is parsed once."""

    work: Work
    tracks: tuple[PlannedTrack, ...]


@dataclass(frozen=True)
class Part:
    """Some works of the study that are rendered together, independently of other parts."""

    name: str
    works: tuple[WorkTracks, ...]
    seed: int
    sample_rate_hz: int

    @property
    def tracks(self) -> list[PlannedTrack]:
        return [track for work in self.works for track in work.tracks]

    @property
    def config(self) -> dict[str, Any]:
        """What determines the part's files, as JSON; the catalogue belongs to the code."""
        return {
            "tracks": [[t.work.id, t.excerpt_index, t.version_kind] for t in self.tracks],
            "seed": self.seed,
            "sample_rate_hz": self.sample_rate_hz,
        }


@dataclass(frozen=True)
class StudyPlan:
    """A study before it is rendered: its parts, and the excerpts that are planted."""

    parts: tuple[Part, ...]
    planted: tuple[Planted, ...]


def plan_reference_study(
    *, tracks: int | None = None, planted: int = 0, seed: int, sample_rate_hz: int
) -> StudyPlan:
    """The plan of a study of `tracks` (None: all), spread over the collections and with its share
    of versions. `planted` holds that many excerpts out and adds a track made from each
    (`planting`). Raises TdaError when these are too many.
    """
    plan = plan_study(load_catalogue().works, tracks)
    plants = choose_planted(plan, planted) if planted else []
    plan += [again for p in plants if (again := rendition(p)) is not None]
    by_work: dict[str, list[PlannedTrack]] = {}
    for track in plan:
        by_work.setdefault(track.work.id, []).append(track)
    groups: list[list[WorkTracks]] = [[]]
    for planned in by_work.values():
        if sum(len(work.tracks) for work in groups[-1]) >= PART_TRACKS:
            groups.append([])
        groups[-1].append(WorkTracks(planned[0].work, tuple(planned)))
    parts = tuple(
        Part(f"works-{number:03d}", tuple(group), seed, sample_rate_hz)
        for number, group in enumerate(groups)
    )
    return StudyPlan(parts, tuple(plants))


def render_part(part: Part, out_dir: Path) -> list[dict[str, Any]]:
    """Write the part's tracks as `audio/<track_id>.flac` (16-bit mono) below `out_dir`; returns
    their manifest rows, in the order of `part.tracks`. The bytes depend on the part alone. Raises
    ScoreError when the installed music21 lacks a score.
    """
    audio_dir = out_dir / "audio"
    audio_dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for work in part.works:
        with about(f"work {work.work.id}"):
            rows += _render_work(
                _Job(work.work, work.tracks, audio_dir, part.seed, part.sample_rate_hz)
            )
    return rows


def write_manifest(
    plan: StudyPlan, rows: Sequence[Sequence[dict[str, Any]]], out_dir: Path
) -> Path:
    """Write the study's `manifest.parquet` into `out_dir`, which holds the audio of all parts, and
    the audio of copies and mixes beside that; returns the manifest's path. `rows` has what
    `render_part` returned for each part of the plan.
    """
    by_track: dict[PlannedTrack, dict[str, Any]] = {}
    for part, of_part in zip(plan.parts, rows, strict=True):
        by_track.update(zip(part.tracks, of_part, strict=True))
    schema = MANIFEST_SCHEMA
    if plan.planted:  # as soon as a track has a split, the manifest decides on all
        schema = {**schema, "split": pl.String}
    added = _planted(by_track, plan.planted, out_dir)
    table = pl.DataFrame([*by_track.values(), *added], schema=schema)
    manifest = out_dir / "manifest.parquet"
    partial = manifest.with_suffix(".partial")
    table.sort("track_id").write_parquet(partial, compression="zstd")
    return partial.replace(manifest)


def render_reference_study(
    out_dir: Path,
    *,
    tracks: int | None = None,
    planted: int = 0,
    seed: int,
    sample_rate_hz: int = 22050,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render a reference study into `out_dir` and return the path of its manifest, whose `audio`
    column is relative to it.

    `tracks` and `planted` are as in `plan_reference_study`; each file of a smaller study is the
    same as in the whole study. `progress` is told tracks done and tracks in all. The same arguments
    give the same bytes, for any number of `workers`, which are processes. Every file is rendered
    anew, so that none can be left over from another seed or rate; the manifest is written last.
    Raises ScoreError when the installed music21 lacks a score.
    """
    (out_dir / "manifest.parquet").unlink(missing_ok=True)
    plan = plan_reference_study(
        tracks=tracks, planted=planted, seed=seed, sample_rate_hz=sample_rate_hz
    )
    total = sum(len(part.tracks) for part in plan.parts)
    rows: list[list[dict[str, Any]]] = []
    with worker_processes(workers) as processes, ThreadPoolExecutor(workers) as threads:

        def render(part: Part) -> list[dict[str, Any]]:
            return processes.call(render_part, part, out_dir)

        for of_part in threads.map(render, plan.parts):
            rows.append(of_part)
            if progress is not None:
                progress(sum(map(len, rows)), total)
    return write_manifest(plan, rows, out_dir)


def _planted(
    rows: Mapping[PlannedTrack, dict[str, Any]], plants: Sequence[Planted], folder: Path
) -> Iterator[dict[str, Any]]:
    """Hold the planted excerpts out and train on their renditions; yields the rows of their copies
    and mixes."""
    for planted in plants:
        excerpt = rows[planted.excerpt]
        excerpt["split"] = "heldout"
        again = rendition(planted)
        if again is None:
            yield plant(planted, excerpt, rows[planted.host], folder)
        else:
            rows[again]["split"] = "train"


@dataclass(frozen=True)
class _Job:
    """What rendering the tracks of one work takes."""

    work: Work
    tracks: tuple[PlannedTrack, ...]
    audio_dir: Path
    seed: int
    sample_rate_hz: int


def _render_work(job: _Job) -> list[dict[str, Any]]:
    """Render the tracks of one work; one manifest row each."""
    work = job.work
    tempos = [
        float(round(work.bpm * generator_for(job.seed, work.id, "tempo", i).uniform(0.95, 1.05)))
        for i in range(work.excerpts)
    ]
    excerpts = cut_excerpts(read_score(work), work, tempos, job.seed)
    rows = []
    for track in job.tracks:
        excerpt = excerpts[track.excerpt_index]
        base_id = f"{work.id}-b{excerpt.bar:02d}"
        base = choose_interpretation(
            work.collection.ensembles,
            tempos[track.excerpt_index],
            generator_for(job.seed, base_id, "interpretation"),
        )
        rows.append(_render_track(job, excerpt, base_id, base, track.version_kind))
    return rows


def _render_track(
    job: _Job, excerpt: Excerpt, base_id: str, base: Interpretation, kind: VersionKind | None
) -> dict[str, Any]:
    work, catalogue = job.work, load_catalogue()
    track_id = f"{base_id}-{kind}" if kind else base_id
    chance = generator_for(job.seed, track_id)
    ensembles = work.collection.ensembles
    match kind:
        case None:
            interpretation = base
        case "instruments":
            interpretation = with_other_instruments(base, ensembles, chance)
        case "transposed":
            length_s = excerpt.quarters * 60 / base.bpm
            interpretation = transposed(base, ensembles, length_s, chance)
    performer = choose_performer(catalogue.performers, interpretation.ensemble, chance)
    key = transpose_key(excerpt.key, interpretation.transposition)
    samples = synthesise(perform(excerpt, interpretation, chance), job.sample_rate_hz)
    audio = job.audio_dir / f"{track_id}.flac"
    write_flac(audio, samples, job.sample_rate_hz)
    return {
        "track_id": track_id,
        "audio": f"{job.audio_dir.name}/{audio.name}",
        "title": work.title,
        "artist": performer.name,
        "rightsholder": choose_label(performer, catalogue.labels, chance),
        "composer": work.composer,
        "collection": work.collection.name,
        "key": key,
        "tempo_bpm": interpretation.bpm,
        "instruments": interpretation.ensemble.name,
        "caption": write_caption(
            form=work.form,
            key=key,
            instruments=interpretation.ensemble.name,
            composer=work.composer,
            collection=work.collection.name,
            bpm=interpretation.bpm,
            attacks_per_s=excerpt.attacks * interpretation.bpm / 60 / excerpt.quarters,
            chance=chance,
        ),
        "licence": work.licence,
        "version_of": base_id if kind else None,
        "version_kind": kind,
    }
