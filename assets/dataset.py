"""Dataset: the recordings, their index, and their latents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch

from assets.preview import table
from assets.recordings import (
    after_unexamined,
    after_unread,
    examine_recordings,
    render_study,
    write_digests,
)
from tda_dagster.corpus import DatasetIndex, SegmentSpec, iter_segments, read_manifest
from tda_dagster.corpus.files import audio_looks, audio_stamp
from tda_dagster.corpus.index import (
    IndexOptions,
    assemble_index,
    audio_of,
    check_rows,
    require_training,
)
from tda_dagster.corpus.manifest import manifest_bytes, manifest_suffix
from tda_dagster.corpus.rejects import rejects_listed
from tda_dagster.corpus.shards import shards
from tda_dagster.corpus.split import check_manifest
from tda_dagster.diffusion.audio_format import AudioFormat, spec_for
from tda_dagster.diffusion.autoencoder import encode, open_autoencoder
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.embedding import Embedder, Embedding, embed, open_embedders
from tda_dagster.materialization import Job, Shard, Verdict, study_asset
from tda_dagster.store import Artifact
from tda_dagster.workspace import Workspace


def _files_outside(settings: Any, workspace: Workspace) -> Mapping[str, Any]:
    uri = settings.dataset.manifest
    if uri is None:
        return {}
    uri = workspace.locate(uri)
    looks = audio_looks(uri)
    return {"stamp": audio_stamp(uri, looks)} | after_unread(workspace, looks)


def _describe_manifest(artifact: Artifact) -> dict[str, Any]:
    audio = [e for e in artifact.entries if e.startswith("audio/")]
    return {"audio files": len(audio)}


@study_asset(
    "dataset/manifest",
    version="1",
    settings=["dataset.manifest", "dataset.reference"],
    fingerprint=_files_outside,
    describe=_describe_manifest,
    kinds=["audio", "parquet"],
)
def manifest(job: Job, out: Path) -> None:
    """The recordings and what is known of them.

    For the reference study: real compositions rendered to audio here, with their manifest. For
    one's own music: a copy of the manifest and the sha256 of every audio file, which stay where
    they are.
    """
    own = job.settings.dataset.manifest
    if own is None:
        render_study(job, out)
        return
    uri = job.workspace.locate(own)
    check_manifest(read_manifest(uri))  # before every file is read
    (out / f"manifest{manifest_suffix(uri)}").write_bytes(manifest_bytes(uri))
    write_digests(job, uri, out)


def manifest_uri(job: Job) -> str:
    """Where the manifest is read from: the user's own place, or the rendered study's folder."""
    own = job.settings.dataset.manifest
    if own is not None:
        return job.workspace.locate(own)
    return str(job.folder(job.inputs["dataset/manifest"]) / "manifest.parquet")


def audio_format(job: Job) -> AudioFormat:
    return AudioFormat.load(job.inputs["base/autoencoder"].path("audio_format.json"))


def segment_spec(job: Job) -> SegmentSpec:
    """How tracks are cut for this model."""
    return spec_for(audio_format(job), job.settings.dataset)


def read_index(artifact: Artifact, uri: str = "") -> DatasetIndex:
    """The dataset's tables from the artifact of `dataset/index`."""
    return DatasetIndex(
        manifest=uri,
        tracks=pl.read_parquet(artifact.path("tracks.parquet")),
        segments=pl.read_parquet(artifact.path("segments.parquet")),
        rejects=pl.read_parquet(artifact.path("rejects.parquet")),
    )


def _describe_index(artifact: Artifact) -> dict[str, Any]:
    index = read_index(artifact)
    return {
        "tracks": index.tracks.height,
        "segments": index.segments.height,
        "held-out segments": index.segments.filter(split="heldout").height,
        "rejected rows": index.rejects.height,
        "hours": round(float(index.tracks["duration_s"].sum()) / 3600, 3),
        "collections": table(
            index.tracks.group_by("collection")
            .agg(tracks=pl.len(), minutes=(pl.col("duration_s").sum() / 60).round(1))
            .sort("collection")
        ),
        "rejects": table(index.rejects.head(20)),
        "preview": table(
            index.tracks.select("track_id", "title", "artist", "rightsholder", "caption").head(8)
        ),
    }


def _accounted_for(job: Job, artifact: Artifact) -> Verdict:
    """Every row of the manifest is a track or a reject, and every track has a segment."""
    dataset = read_index(artifact)
    without = dataset.tracks.join(dataset.segments, on="track_id", how="anti")
    detail = (
        f"{dataset.tracks.height} tracks, {dataset.segments.height} segments, "
        f"{dataset.rejects.height} rejects; {without.height} tracks without a segment"
    )
    return Verdict(dataset.tracks.height > 0 and without.is_empty(), detail)


def _unexamined(settings: Any, workspace: Workspace) -> Mapping[str, Any]:
    return {} if settings.dataset.manifest is None else after_unexamined(workspace)


@study_asset(
    "dataset/index",
    version="2",
    inputs=["dataset/manifest", "base/autoencoder"],
    settings=[
        "dataset.manifest",
        "dataset.min_seconds",
        "dataset.silence_dbfs",
        "dataset.max_reject_fraction",
        "dataset.heldout_fraction",
        "dataset.seed",
        "dataset.taken_down",
    ],
    fingerprint=_unexamined,
    checks={"rows_accounted_for": _accounted_for},
    describe=_describe_index,
    kinds=["polars", "parquet"],
)
def index(job: Job, out: Path) -> None:
    """Every recording decoded, checked and cut into segments; bad rows are listed, not fatal."""
    settings = job.settings.dataset
    options = IndexOptions(
        settings.heldout_fraction,
        settings.seed,
        settings.max_reject_fraction,
        frozenset(settings.taken_down),
    )
    rows, spec = read_manifest(manifest_uri(job)), segment_spec(job)
    with rejects_listed(job.workspace.rejects):
        check_rows(rows, options)
        outcomes = examine_recordings(job, rows, audio_of(rows, options), spec, out)
        dataset = assemble_index(rows, outcomes, spec, options)
    require_training(rows, dataset)
    for name in ("tracks", "segments", "rejects"):
        getattr(dataset, name).write_parquet(out / f"{name}.parquet")


def _describe_latents(artifact: Artifact) -> dict[str, Any]:
    first = LatentSegments.load(artifact.path(artifact.entries[0]))
    _, channels, frames = first.latents.shape
    return {
        "shards": len(artifact.entries),
        "latent channels": channels,
        "latent frames": frames,
        "standard deviation in the first shard": round(float(first.latents.std()), 4),
    }


def _one_latent_each(job: Job, artifact: Artifact) -> Verdict:
    """There are latents for every segment of the index, and all of them are finite."""
    wanted = set(read_index(job.inputs["dataset/index"]).segments["segment_id"])
    shards = [LatentSegments.load(artifact.path(name)) for name in artifact.entries]
    found = [segment for shard in shards for segment in shard.segment_ids]
    finite = all(bool(torch.isfinite(shard.latents).all()) for shard in shards)
    detail = f"{len(found)} of {len(wanted)} segments, {'all' if finite else 'not all'} finite"
    return Verdict(finite and len(found) == len(wanted) and set(found) == wanted, detail)


@study_asset(
    "dataset/latents",
    version="2",
    inputs=["dataset/manifest", "dataset/index", "base/autoencoder"],
    settings=[
        "dataset.manifest",
        "dataset.min_seconds",
        "dataset.silence_dbfs",
        "dataset.shard_segments",
    ],
    by_shard=["dataset/manifest", "dataset/index"],
    checks={"complete_and_finite": _one_latent_each},
    describe=_describe_latents,
    kinds=["pytorch", "safetensors"],
)
def latents(job: Job, out: Path) -> None:
    """The segments as the model sees them: latents and conditioning, in shards."""
    dataset = read_index(job.inputs["dataset/index"], manifest_uri(job))
    autoencoder = open_autoencoder(job.folder(job.inputs["base/autoencoder"]) / "vae")
    captions = dict(dataset.tracks.select("track_id", "caption").iter_rows())
    spec = segment_spec(job)
    work = []
    for name, rows in _shards(job, dataset):

        def produce(path: Path, rows: pl.DataFrame = rows) -> None:
            audio = [x for _, x in iter_segments(dataset, spec, rows["segment_id"].to_list())]
            LatentSegments.of(rows, encode(autoencoder, audio), captions).save(path)

        work.append(
            Shard(
                name,
                inputs=_audio_behind(job, dataset, rows),
                config=_contents(rows)
                | {"captions": {track: captions[track] for track in rows["track_id"]}},
                file="latents.safetensors",
                produce=produce,
            )
        )
    for shard, part in zip(work, job.shards(work), strict=True):
        (out / f"{shard.name}.safetensors").write_bytes(part.read_bytes())


def _shards(job: Job, dataset: DatasetIndex) -> list[tuple[str, pl.DataFrame]]:
    settings = job.settings.dataset
    return list(shards(dataset.segments, settings.shard_segments, settings.manifest))


def _audio_behind(job: Job, dataset: DatasetIndex, rows: pl.DataFrame) -> dict[str, str]:
    """What segments are made from: their own audio files, and nothing else of the dataset."""
    audio = dataset.tracks.join(rows, on="track_id", how="semi")
    return {
        "base/autoencoder": job.inputs["base/autoencoder"].digest,
        **{f"audio of {t}": d for t, d in audio.select("track_id", "audio_sha256").iter_rows()},
    }


def _contents(rows: pl.DataFrame) -> dict[str, Any]:
    """What the index says of the segments of a shard."""
    return {"segments": rows.drop("split", "track_id", "segment_index").to_dicts()}


def _describe_embeddings(artifact: Artifact) -> dict[str, Any]:
    found = {Path(name).stem: Embedding.load(artifact.path(name)) for name in artifact.entries}
    rows = [
        {"embedding": name, "segments": len(e.ids), "shape": str(tuple(e.vectors.shape[1:]))}
        for name, e in found.items()
    ]
    return {"embeddings": table(pl.DataFrame(rows))}


@study_asset(
    "dataset/embeddings",
    version="2",
    inputs=["dataset/manifest", "dataset/index", "base/autoencoder"],
    settings=[
        "dataset.manifest",
        "dataset.min_seconds",
        "dataset.silence_dbfs",
        "dataset.shard_segments",
        "embeddings",
    ],
    by_shard=["dataset/manifest", "dataset/index"],
    describe=_describe_embeddings,
    kinds=["audio", "safetensors"],
)
def embeddings(job: Job, out: Path) -> None:
    """What every segment sounds like: audio embeddings of its valid part, one file each."""
    dataset = read_index(job.inputs["dataset/index"], manifest_uri(job))
    spec = segment_spec(job)
    embedders = open_embedders(job.settings.embeddings.clap, job.workspace.root)
    plan = _shards(job, dataset)
    work = []
    for name, embedder in embedders.items():
        for shard, rows in plan:

            def produce(
                path: Path, rows: pl.DataFrame = rows, embedder: Embedder = embedder
            ) -> None:
                pieces = (
                    (segment["segment_id"], audio[:, : segment["valid_samples"]].mean(axis=0))
                    for segment, audio in iter_segments(dataset, spec, rows["segment_id"].to_list())
                )
                embed(embedder, pieces, spec.sample_rate_hz).save(path)

            work.append(
                Shard(
                    f"{name}-{shard}",
                    inputs=_audio_behind(job, dataset, rows),
                    config={
                        "embedding": name,
                        "clap": job.settings.embeddings.clap if name == "clap" else None,
                        **_contents(rows),
                    },
                    file="embedding.safetensors",
                    produce=produce,
                )
            )
    parts = [Embedding.load(part) for part in job.shards(work)]
    for number, name in enumerate(embedders):
        found = parts[number * len(plan) : (number + 1) * len(plan)]
        Embedding(
            tuple(i for part in found for i in part.ids),
            torch.cat([part.vectors for part in found]),
        ).save(out / f"{name}.safetensors")


def latent_shards(artifact: Artifact, split: str | None = None) -> list[str]:
    """File names of the shards of `dataset/latents`, of one split if given."""
    return [n for n in artifact.entries if split is None or n.startswith(f"{split}-")]
