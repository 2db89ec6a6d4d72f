"""Fidelity: what unlearning did to the music the model makes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from assets.base import base_model
from assets.material import read_embedding
from assets.preview import table
from assets.unlearned import delta_files, unlearning_spec
from tda_dagster.attribution.similarity import standardised
from tda_dagster.attribution.unlearning import Unlearned
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import keyed_generator
from tda_dagster.embedding import Embedding, embed, open_embedders
from tda_dagster.evaluation.frechet import frechet_distance, frechet_interval
from tda_dagster.evaluation.metrics import EVALUATION_SCHEMA, row
from tda_dagster.materialization import Job, PerThread, Shard, study_asset
from tda_dagster.store import Artifact
from tda_dagster.workspace import Workspace

EMBEDDING = "timbre"
"""What pieces are compared by; weight-free, so that every study has it."""


@dataclass(frozen=True)
class Piece:
    """A piece to generate; prompts and seeds are the same for every method and cohort, so that
    the base model's pieces are made once."""

    prompt: str
    seed: int


def _asked_for(settings: Any, workspace: Workspace) -> Mapping[str, Any]:
    return {"fidelity": workspace.cohort(settings.cohort).fidelity}


def _describe(artifact: Artifact) -> dict[str, Any]:
    metrics = pl.read_parquet(artifact.path("metrics.parquet"))
    return {"figures": table(metrics.select("metric", "detail", "value"))}


@study_asset(
    "evaluation/generations",
    version="2",
    inputs=["unlearned/checkpoints", "base/checkpoint", "dataset/index", "dataset/embeddings"],
    settings=["fidelity", "model.device"],
    partitioned="cohort|method",
    fingerprint=_asked_for,
    describe=_describe,
    kinds=["audio", "polars"],
)
def generations(job: Job, out: Path) -> None:
    """Fréchet distance of pieces by the unlearned models to the base model's pieces of the same
    prompts and seeds, beside what other seeds alone do to the base model's. For so many of
    the first queries as the cohort's file says (`fidelity`): queries that are added to it leave
    these figures as they are."""
    rows: list[dict[str, object]] = []
    compared = job.workspace.cohort(job.cohort).fidelity
    if unlearning_spec(job) is not None and compared:
        rows = _figures(job, compared)
    pl.DataFrame(rows, schema=EVALUATION_SCHEMA).write_parquet(out / "metrics.parquet")


def _figures(job: Job, compared: int) -> list[dict[str, object]]:
    settings = job.settings.fidelity
    models = PerThread(lambda: base_model(job, job.settings.model.device))
    reference = read_embedding(job.inputs["dataset/embeddings"], EMBEDDING).vectors
    unlearned = list(delta_files(job.inputs["unlearned/checkpoints"]).values())[:compared]
    pieces = _pieces(job, "prompted")

    def vectors(made: list[tuple[Piece, str | None]]) -> np.ndarray:
        parts = job.shards([_shard(job, models, piece, delta) for piece, delta in made])
        found = torch.cat([Embedding.load(part).vectors for part in parts])
        return standardised(found, reference).numpy()

    base = vectors([(piece, None) for piece in pieces])
    groups = {
        # Piece by piece another query's checkpoint, so that all of them have their say.
        "unlearned": vectors(
            [(piece, unlearned[i % len(unlearned)]) for i, piece in enumerate(pieces)]
        ),
        "other seeds": vectors([(piece, None) for piece in _pieces(job, "reseeded")]),
    }
    rows = []
    for detail, others in groups.items():
        low, high = frechet_interval(base, others, resamples=settings.resamples, seed=settings.seed)
        figures = {
            "frechet_distance": (frechet_distance(base, others), "lower"),
            "frechet_low": (low, "none"),
            "frechet_high": (high, "none"),
            "pieces": (len(pieces), "none"),
        }
        rows += [
            row(
                "generations",
                job.cohort,
                metric,
                value,
                method_id=job.method.method_id,
                direction=direction,
                detail=detail,
            )
            for metric, (value, direction) in figures.items()
        ]
    return rows


def _pieces(job: Job, kind: str) -> list[Piece]:
    """Prompts that the model was not trained on, where there are any, each with a seed."""
    tracks = pl.read_parquet(job.inputs["dataset/index"].path("tracks.parquet"))
    heldout = tracks.filter(split="heldout")
    captions = sorted(set((heldout if heldout.height else tracks)["caption"]))
    settings = job.settings.fidelity
    order = torch.randperm(
        len(captions), generator=keyed_generator(settings.seed, "prompts")
    ).tolist()
    pieces = []
    for number in range(settings.pieces):
        generator = keyed_generator(settings.seed, kind, str(number))
        seed = int(torch.randint(2**31, (), generator=generator))
        pieces.append(Piece(captions[order[number % len(order)]], seed))
    return pieces


def _shard(job: Job, models: PerThread[MusicModel], piece: Piece, delta_file: str | None) -> Shard:
    """The embedding [1, d] of a piece by the model under a delta (None: by the base model)."""
    settings = job.settings.fidelity
    deltas = job.inputs["unlearned/checkpoints"]

    def produce(path: Path) -> None:
        model = models()
        delta = Unlearned.load(deltas.path(delta_file)).delta if delta_file else {}
        with model.shifted(delta):
            latents = model.generate(
                piece.prompt,
                negative_prompt="",
                seed=piece.seed,
                seconds=model.window_seconds,
                steps=settings.inference_steps,
                guidance_scale=settings.guidance_scale,
            )
        audio = model.decode(latents.unsqueeze(0))[0].mean(dim=0).cpu().numpy()
        if not np.isfinite(audio).all():
            # Unlearning can break a model so that it makes no sound at all: heard as silence.
            audio = np.zeros_like(audio)
        embedder = open_embedders(None)[EMBEDDING]
        embed(embedder, [("piece", audio)], model.sampling_rate).save(path)

    inputs = {"base/checkpoint": job.inputs["base/checkpoint"].digest}
    return Shard(
        "piece",
        inputs=inputs | ({"delta": deltas.files[delta_file].digest} if delta_file else {}),
        config={
            "prompt": piece.prompt,
            "seed": piece.seed,
            "inference_steps": settings.inference_steps,
            "guidance_scale": settings.guidance_scale,
        },
        file="embedding.safetensors",
        produce=produce,
    )
