"""Cohort: how a declared query becomes the windows that are attributed, as latents and audio."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import soundfile
import torch

from assets.dataset import latent_shards
from tda_dagster.corpus.pieces import PieceWindow
from tda_dagster.diffusion.audio_format import AudioFormat, spec_for
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.evaluation.ground_truth import shipped
from tda_dagster.materialization import Job, Shard
from tda_dagster.queries import QueryError, declared_at, no_such_segment, open_declared
from tda_dagster.quoting import shown
from tda_dagster.store import canonical_json, digest_of
from tda_dagster.workspace import Query, piece_id


@dataclass(frozen=True)
class QueryWindow:
    """A window of a piece: `latents` and `flac` are files, the former None for a silent one."""

    query_id: str
    index: int
    start_s: float
    caption: str
    valid_frames: int
    latents: Path | None
    flac: Path


def query_windows(job: Job, model: MusicModel, query: Query, number: int) -> Iterator[QueryWindow]:
    """The windows of a piece in order: one, unless it is a longer recording."""
    piece = piece_id(job.cohort, number)
    where = declared_at(job.workspace, job.cohort, number)
    if query.kind == "generated" and job.workspace.cohort(job.cohort).pieces == "ground_truth":
        yield _encoded(job, model, piece, _stored(job, query, piece, where))
    elif query.kind == "generated":
        yield _encoded(job, model, piece, _generated(job, model, query, piece, where))
    elif query.kind == "segment":
        yield _encoded(job, model, piece, _training_segment(job, query, piece, where))
    else:
        yield from _imported(job, model, query, piece, where)


def _encoded(
    job: Job, model: MusicModel, query_id: str, latents: Shard, index: int = 0, start_s: float = 0.0
) -> QueryWindow:
    """A window of which `latents` are to be made."""
    path = job.shard(latents)
    segments = LatentSegments.load(path)
    if not bool(torch.isfinite(segments.latents).all()):
        raise QueryError(
            f"{query_id}: its latents are not finite: the model's weights, or the recording, hold "
            "NaN or infinite numbers; check the model of model.pipeline"
        )

    def produce(file: Path) -> None:
        _write_flac(file, query_audio(model, segments), model.sampling_rate)

    flac = job.shard(
        Shard(
            f"{query_id}|audio",
            inputs={
                "latents": digest_of(path.read_bytes()),
                "base/checkpoint": job.inputs["base/checkpoint"].digest,
            },
            config={},
            file="audio.flac",
            produce=produce,
        )
    )
    (frames,), (caption,) = segments.valid_frames.tolist(), segments.captions
    return QueryWindow(query_id, index, start_s, caption, frames, path, flac)


def _write_flac(file: Path, audio: np.ndarray, rate: int) -> None:
    """Write audio [channels, samples] as 16-bit FLAC."""
    soundfile.write(file, audio.T, rate, format="FLAC", subtype="PCM_16")


def _generated(job: Job, model: MusicModel, query: Query, query_id: str, where: str) -> Shard:
    seconds = query.seconds or model.window_seconds
    if seconds > model.window_seconds:
        raise QueryError(
            f"{where}seconds: {seconds:g} s is longer than the model generates, "
            f"{model.window_seconds:.2f} s"
        )
    options, prompt = job.settings.generation, query.prompt or ""
    told = {
        "prompt": prompt,
        "negative_prompt": options.negative_prompt,
        "seed": query.seed,
        "seconds": seconds,
        "steps": options.inference_steps,
        "guidance_scale": options.guidance_scale,
    }

    def produce(path: Path) -> None:
        latents = model.generate(**told)
        # By what it was generated from, which is the same on every processor, as latents are not.
        key = digest_of(canonical_json(told))
        _query(model, query_id, latents, seconds, prompt, key).save(path)

    return Shard(
        query_id,
        inputs={"base/checkpoint": job.inputs["base/checkpoint"].digest},
        config={
            "query": query.model_dump(mode="json"),
            "generation": options.model_dump(mode="json"),
        },
        file="latents.safetensors",
        produce=produce,
    )


def _stored(job: Job, query: Query, query_id: str, where: str) -> Shard:
    """A piece that comes with the package. The model that is trained here differs from the one
    that generated it by rounding alone, which many steps of training and sampling magnify."""
    truth = shipped(job.cohort)
    ids = () if truth is None else truth.queries.segment_ids
    if truth is None or query_id not in ids:
        raise QueryError(
            f"{where}pieces: ground_truth: the package has no piece {query_id} of the cohort "
            f"{job.cohort}; leave `pieces` out, so that the model generates it"
        )
    found = truth.queries.take([ids.index(query_id)])
    if found.captions != (query.prompt,):
        raise QueryError(
            f"{where}pieces: ground_truth: the package's piece {query_id} is of the prompt "
            f"{shown(found.captions[0])}; leave `pieces` out, so that the model generates it"
        )
    return Shard(
        query_id,
        inputs={},
        config={"query": query.model_dump(mode="json"), "piece": digest_of(_bytes(found))},
        file="latents.safetensors",
        produce=found.save,
    )


def _bytes(segments: LatentSegments) -> bytes:
    return segments.latents.numpy().tobytes()


def _imported(
    job: Job, model: MusicModel, query: Query, piece: str, where: str
) -> Iterator[QueryWindow]:
    audio = AudioFormat(
        model.sampling_rate, model.audio_channels, model.hop_length, model.latent_shape[1]
    )
    spec = spec_for(audio, job.settings.dataset)
    recording = open_declared(job.workspace, query, spec, where)
    count = len(recording.cuts)
    digits = max(2, len(str(count - 1)))
    for window in recording.windows():
        index = window.window.segment_index
        query_id = piece if count == 1 else f"{piece}-w{index:0{digits}d}"
        if window.silent:
            yield _silent(job, model, query_id, query.caption, window)
            continue
        config = {
            "samples": window.sha256,
            "caption": query.caption,
            "start_s": window.start_s,
            "seconds_total": recording.seconds,
            "valid_samples": window.window.valid_samples,
        }

        def produce(path: Path, query_id: str = query_id, window: PieceWindow = window) -> None:
            latents = model.encode(torch.from_numpy(window.samples)[None])[0]
            LatentSegments(
                segment_ids=(query_id,),
                latents=latents.unsqueeze(0).float().contiguous(),
                valid_frames=torch.tensor([window.window.valid_frames]),
                captions=(query.caption,),
                seconds_start=(window.start_s,),
                seconds_total=(recording.seconds,),
                draw_keys=(window.sha256,),
            ).save(path)

        shard = Shard(
            query_id,
            inputs={"base/checkpoint": job.inputs["base/checkpoint"].digest},
            config=config,
            file="latents.safetensors",
            produce=produce,
        )
        yield _encoded(job, model, query_id, shard, index, window.start_s)


def _silent(
    job: Job, model: MusicModel, query_id: str, caption: str, window: PieceWindow
) -> QueryWindow:
    valid = window.window.valid_samples

    def produce(file: Path) -> None:
        _write_flac(file, window.samples[:, :valid], model.sampling_rate)

    flac = job.shard(
        Shard(
            f"{query_id}|audio",
            inputs={},
            config={"samples": window.sha256, "valid_samples": valid},
            file="audio.flac",
            produce=produce,
        )
    )
    return QueryWindow(
        query_id,
        window.window.segment_index,
        window.start_s,
        caption,
        window.window.valid_frames,
        None,
        flac,
    )


def _training_segment(job: Job, query: Query, query_id: str, where: str) -> Shard:
    source = job.inputs["dataset/latents"]
    index = pl.read_parquet(job.inputs["dataset/index"].path("segments.parquet"))
    key = dict(index.select("segment_id", "segment_sha256").iter_rows()).get(query.segment)
    for name in latent_shards(source):
        shard = LatentSegments.load(source.path(name))
        if key is not None and query.segment in shard.segment_ids:
            found = shard.take([shard.segment_ids.index(query.segment)])
            renamed = replace(found, segment_ids=(query_id,), draw_keys=(key,))
            return Shard(
                query_id,
                inputs={"latents": source.files[name].digest},
                config={"segment": query.segment, "key": key},
                file="latents.safetensors",
                produce=renamed.save,
            )
    raise QueryError(no_such_segment(where, query))


def _query(
    model: MusicModel,
    query_id: str,
    latents: torch.Tensor,
    seconds: float,
    caption: str,
    draw_key: str,
) -> LatentSegments:
    frames = -(-round(seconds * model.sampling_rate) // model.hop_length)
    return LatentSegments(
        segment_ids=(query_id,),
        latents=latents.unsqueeze(0).float().contiguous(),
        valid_frames=torch.tensor([min(frames, latents.shape[1])]),
        captions=(caption,),
        seconds_start=(0.0,),
        seconds_total=(seconds,),
        draw_keys=(draw_key,),
    )


def query_audio(model: MusicModel, query: LatentSegments) -> np.ndarray:
    """The query's valid part as audio [channels, samples], never clipped."""
    samples = int(query.valid_frames[0]) * model.hop_length
    audio: np.ndarray = model.decode(query.latents)[0, :, :samples].numpy()
    peak = float(np.abs(audio).max())
    return audio / peak * 0.99 if peak > 0.99 else audio
