"""Rendering the study: plan, one job a work, audio files, manifest."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
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


@dataclass(frozen=True)
class Job:
    """All tracks of the study that come from one work, so that its score is parsed once."""

    work: Work
    tracks: tuple[PlannedTrack, ...]
    audio_dir: Path
    seed: int
    sample_rate_hz: int


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
    """Render the reference study into `out_dir` and return the path of its manifest.

    Writes `audio/<track_id>.flac` (16-bit mono) and `manifest.parquet`, whose `audio` column is
    relative to the manifest. `tracks` renders a smaller study, spread over the collections and
    with its share of versions; each of its files is the same as in the whole study. `planted` holds
    that many excerpts out and adds a track made from each (`planting`): the manifest then has a
    `split`. `progress` is told tracks done and tracks in all. The same arguments give the same
    bytes, for any `workers`. Every file is rendered anew, so that none can be left over from
    another seed or rate; the manifest is written last. Raises ScoreError when the installed
    music21 lacks a score.
    """
    audio_dir = out_dir / "audio"
    audio_dir.mkdir(parents=True, exist_ok=True)
    manifest = out_dir / "manifest.parquet"
    manifest.unlink(missing_ok=True)
    plan = plan_study(load_catalogue().works, tracks)
    plants = choose_planted(plan, planted) if planted else []
    plan += [again for p in plants if (again := rendition(p)) is not None]
    by_work: dict[str, list[PlannedTrack]] = {}
    for track in plan:
        by_work.setdefault(track.work.id, []).append(track)
    jobs = [
        Job(planned[0].work, tuple(planned), audio_dir, seed, sample_rate_hz)
        for planned in by_work.values()
    ]
    rows: dict[PlannedTrack, dict[str, Any]] = {}
    for job, rendered in _run(jobs, workers):
        rows.update(zip(job.tracks, rendered, strict=True))
        if progress is not None:
            progress(len(rows), len(plan))
    schema = MANIFEST_SCHEMA
    if plants:  # as soon as a track has a split, the manifest decides on all
        schema = {**schema, "split": pl.String}
    table = [*rows.values(), *_planted(rows, plants, out_dir)]
    partial = manifest.with_suffix(".partial")
    pl.DataFrame(table, schema=schema).sort("track_id").write_parquet(partial, compression="zstd")
    return partial.replace(manifest)


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


def _run(jobs: list[Job], workers: int) -> Iterator[tuple[Job, list[dict[str, Any]]]]:
    if workers <= 1:
        yield from ((job, render_work(job)) for job in jobs)
        return
    # spawn: forking a process that already runs threads (polars, torch) can hang it
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs_of = {pool.submit(render_work, job): job for job in jobs}
        for future in as_completed(jobs_of):
            yield jobs_of[future], future.result()


def render_work(job: Job) -> list[dict[str, Any]]:
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
    job: Job, excerpt: Excerpt, base_id: str, base: Interpretation, kind: VersionKind | None
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
