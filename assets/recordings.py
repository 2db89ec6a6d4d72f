"""The recordings of a dataset: rendered or registered, and examined, shard by shard.

What belongs here: how the work of `dataset/manifest` and `dataset/index` is cut into shards, what
each shard depends on, and what is tried again in the next run. What the work is, is said in
`tda_dagster.corpus`.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import polars as pl

from tda_dagster.corpus import ManifestRows, SegmentSpec
from tda_dagster.corpus.examination import Examiner, Outcome, examined_table, outcomes_of
from tda_dagster.corpus.files import audio_digests, audio_looks, digests_table
from tda_dagster.corpus.reference.study import (
    MANIFEST_SCHEMA,
    Part,
    plan_reference_study,
    render_part,
    write_manifest,
)
from tda_dagster.corpus.shards import stable_groups
from tda_dagster.materialization import Job, Shard
from tda_dagster.store import Artifact, StoreError
from tda_dagster.worker_processes import worker_processes
from tda_dagster.workspace import Workspace

FILES_PER_SHARD = 64

_AUDIO_FILES = "audio_files.parquet"
_TRACKS = "tracks.parquet"
_EXAMINED = "examined.parquet"


def render_study(job: Job, out: Path) -> None:
    """Render the reference study into `out`, in shards of a few works each."""
    reference = job.settings.dataset.reference
    plan = plan_reference_study(
        tracks=reference.tracks,
        planted=reference.planted,
        seed=reference.seed,
        sample_rate_hz=reference.sample_rate_hz,
    )
    with worker_processes(job.workspace.workers) as processes:

        def produce(folder: Path, part: Part) -> None:
            rows = processes.call(render_part, part, folder)
            pl.DataFrame(rows, schema=MANIFEST_SCHEMA).write_parquet(folder / _TRACKS)

        work = [
            Shard(part.name, {}, part.config, file="", produce=partial(produce, part=part))
            for part in plan.parts
        ]
        rendered = job.folders(work)
    rows = []
    for artifact in rendered:
        rows.append(pl.read_parquet(artifact.path(_TRACKS)).to_dicts())
        for name in artifact.entries:
            if name != _TRACKS:
                (out / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(artifact.path(name), out / name)
    write_manifest(plan, rows, out)


def write_digests(job: Job, uri: str, out: Path) -> None:
    """Write the sha256 of every audio file of the manifest at `uri` into `out`, null where a file
    cannot be read. Such a file is in no shard, so that the next run tries it again."""
    looks = audio_looks(uri)
    there = [name for name, look in looks.items() if look is not None]

    def produce(path: Path, names: Sequence[str]) -> None:
        digests = audio_digests(uri, names)
        digests_table(digests, digests).write_parquet(path)

    work = [
        Shard(
            group,
            inputs={},
            config={"files": [[name, looks[name]] for name in names]},
            file=_AUDIO_FILES,
            produce=partial(produce, names=names),
        )
        for group, names in stable_groups(there, FILES_PER_SHARD)
    ]
    digests: dict[str, str] = {}
    for path in job.shards(work):
        digests |= dict(pl.read_parquet(path).iter_rows())
    digests |= audio_digests(uri, [name for name in there if name not in digests])
    digests_table(looks, digests).write_parquet(out / _AUDIO_FILES)


def after_unread(workspace: Workspace, looks: Mapping[str, str | None]) -> dict[str, str]:
    """What makes the next run read files that are there (`audio_looks`) but could not be read for
    the live `dataset/manifest`: a part of the recipe, see `_after`."""

    def unsettled(artifact: Artifact) -> bool:
        table = pl.read_parquet(artifact.path(_AUDIO_FILES))
        unread = table.filter(pl.col("audio_sha256").is_null())
        return any(looks.get(name) is not None for name in unread["audio"])

    return _after(workspace, "dataset/manifest", unsettled)


def after_unexamined(workspace: Workspace) -> dict[str, str]:
    """The same for files that `dataset/manifest` could read and the live `dataset/index` not."""

    def unsettled(artifact: Artifact) -> bool:
        table = pl.read_parquet(artifact.path(_EXAMINED), columns=["known_sha256", "sha256"])
        failed = pl.col("sha256").is_null() & pl.col("known_sha256").is_not_null()
        return not table.filter(failed).is_empty()

    return _after(workspace, "dataset/index", unsettled)


def _after(
    workspace: Workspace, asset: str, unsettled: Callable[[Artifact], bool]
) -> dict[str, str]:
    """If the live artifact of `asset` is `unsettled`, the key of its recipe, which makes that of
    the next run another one; nothing else tells that there is something to try again. The
    artifacts that follow keep the key, or the unsettled one would be found again."""
    head = workspace.store.head(asset)
    if head is None:
        return {}
    before = head.recipe.config.get("outside", {}).get("after")
    try:
        if unsettled(workspace.store.artifact(head.digest)):
            return {"after": head.recipe.key}
    except StoreError:  # lost, damaged, or of a version with other files
        return {}
    return {"after": before} if before else {}


def examine_recordings(
    job: Job, rows: ManifestRows, audio: Sequence[str], spec: SegmentSpec, out: Path
) -> dict[str, Outcome]:
    """What is to be known of each of the files `audio` of a manifest, which is also written into
    `out`, for the index of a manifest that has grown.

    Files that the live index knows are taken from it, others are decoded, in shards. A file that
    cannot be had is in no shard, so that the next run tries it again.
    """
    known = _audio_sha256(job)
    files = {name: known.get(name) for name in audio}
    outcomes = _outcomes(job, Examiner(rows.uri, spec), files, spec)
    table = examined_table(outcomes)
    column = pl.Series("known_sha256", [files[name] for name in table["audio"]], dtype=pl.String)
    table.with_columns(column).write_parquet(out / _EXAMINED)
    return outcomes


def _audio_sha256(job: Job) -> dict[str, str]:
    """The sha256 of each audio file that `dataset/manifest` has read, by its name there."""
    source = job.inputs["dataset/manifest"]
    if job.settings.dataset.manifest is None:
        return {name: entry.digest for name, entry in source.files.items()}
    table = pl.read_parquet(source.path(_AUDIO_FILES)).drop_nulls("audio_sha256")
    return dict(table.select("audio", "audio_sha256").iter_rows())


def _outcomes(
    job: Job, examiner: Examiner, files: Mapping[str, str | None], spec: SegmentSpec
) -> dict[str, Outcome]:
    found = {
        name: outcome
        for name, outcome in _examined_before(job).items()
        if outcome.sha256 is not None and outcome.sha256 == files.get(name)
    }
    failed: dict[str, Outcome] = {}

    def produce(path: Path, names: Sequence[str]) -> None:
        outcomes = {name: examiner.examine(name, files[name]) for name in names}
        settled = {n: outcome for n, outcome in outcomes.items() if outcome.sha256 == files[n]}
        failed.update({n: outcome for n, outcome in outcomes.items() if n not in settled})
        examined_table(settled).write_parquet(path)

    new = [name for name, sha256 in files.items() if sha256 is not None and name not in found]
    work = [
        Shard(
            group,
            inputs={},
            config={"files": [[name, files[name]] for name in names], "spec": asdict(spec)},
            file=_EXAMINED,
            produce=partial(produce, names=names),
        )
        for group, names in stable_groups(new, FILES_PER_SHARD)
    ]
    for path in job.shards(work):
        found |= outcomes_of(pl.read_parquet(path))
    left = {n: sha256 for n, sha256 in files.items() if n not in found and n not in failed}
    return found | failed | examiner.examine_all(left, workers=job.workspace.workers)


def _examined_before(job: Job) -> dict[str, Outcome]:
    """The outcomes in the live index, if it was made by the present code from tracks that were cut
    in the same way."""
    head = job.store.head("dataset/index")
    if head is None or head.recipe.code_version != job.recipe.code_version:
        return {}
    then, now = head.recipe.config["dataset"], job.recipe.config["dataset"]
    if any(then[key] != now[key] for key in ("min_seconds", "silence_dbfs")):
        return {}
    if head.recipe.inputs["base/autoencoder"] != job.recipe.inputs["base/autoencoder"]:
        return {}
    try:
        return outcomes_of(pl.read_parquet(job.store.artifact(head.digest).path(_EXAMINED)))
    except StoreError:  # lost or damaged; the files are examined again
        return {}
