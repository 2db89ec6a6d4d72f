"""Evaluation: figures about the autoencoder and about an attribution."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from assets.base import read_losses
from assets.dataset import manifest_uri, read_index, segment_spec
from assets.preview import picture, table
from assets.unlearned import query_losses
from tda_dagster.attribution.unlearning import Unlearned
from tda_dagster.corpus import iter_segments
from tda_dagster.diffusion.autoencoder import encode, open_autoencoder
from tda_dagster.evaluation.metrics import (
    EVALUATION_SCHEMA,
    loss_rise,
    row,
    self_rank,
    top_share,
)
from tda_dagster.evaluation.reconstruction import compare
from tda_dagster.materialization import Job, study_asset
from tda_dagster.report import figures
from tda_dagster.store import Artifact

RECONSTRUCTED = 40
"""Segments that reconstruction is measured on, at most."""


def _describe_reconstruction(artifact: Artifact) -> dict[str, Any]:
    metrics = pl.read_parquet(artifact.path("metrics.parquet"))
    described: dict[str, Any] = {
        "figures": table(metrics.group_by("metric").agg(pl.col("value").mean()).sort("metric"))
    }
    for name in ("original", "reconstruction"):
        if artifact.has(f"{name}.png"):
            described[name] = picture(artifact.read_bytes(f"{name}.png"))
    return described


@study_asset(
    "evaluation/reconstruction",
    version="1",
    inputs=["dataset/manifest", "dataset/index", "base/autoencoder"],
    settings=["dataset.manifest", "dataset.min_seconds", "dataset.silence_dbfs"],
    describe=_describe_reconstruction,
    kinds=["audio", "polars"],
)
def reconstruction(job: Job, out: Path) -> None:
    """How well the autoencoder gives back segments, held-out ones where there are any."""
    dataset = read_index(job.inputs["dataset/index"], manifest_uri(job))
    autoencoder = open_autoencoder(job.folder(job.inputs["base/autoencoder"]) / "vae")
    spec = segment_spec(job)
    heldout = dataset.segments.filter(split="heldout")
    chosen = (heldout if heldout.height else dataset.segments).head(RECONSTRUCTED)
    rows = []
    for number, (segment, audio) in enumerate(
        iter_segments(dataset, spec, chosen["segment_id"].to_list())
    ):
        with torch.no_grad():
            decoded = autoencoder.decode(encode(autoencoder, [audio])).sample[0].numpy()
        valid = int(segment["valid_samples"])
        before, after = audio[:, :valid].mean(axis=0), decoded[:, :valid].mean(axis=0)
        figure = compare(before, after, spec.sample_rate_hz)
        for metric, value in (
            ("log_mel_distance", figure.log_mel_db),
            ("si_sdr", figure.si_sdr_db),
        ):
            better = "lower" if metric == "log_mel_distance" else "higher"
            rows.append(
                row(
                    "reconstruction",
                    segment["segment_id"],
                    metric,
                    value,
                    unit="dB",
                    direction=better,
                    detail=segment["split"],
                )
            )
        if number == 0:
            for name, sound in (("original", before), ("reconstruction", after)):
                picture_of = figures.spectrogram(sound, spec.sample_rate_hz, title=name)
                (out / f"{name}.png").write_bytes(picture_of)
        job.progress(number + 1, chosen.height)
    pl.DataFrame(rows, schema=EVALUATION_SCHEMA).write_parquet(out / "metrics.parquet")


def _describe_attribution(artifact: Artifact) -> dict[str, Any]:
    metrics = pl.read_parquet(artifact.path("metrics.parquet"))
    wide = metrics.pivot(on="metric", index="subject", values="value", aggregate_function="first")
    return {"figures": table(wide.sort("subject").head(20))}


@study_asset(
    "evaluation/attribution",
    version="1",
    inputs=[
        "attribution/scores",
        "unlearned/checkpoints",
        "unlearned/losses",
        "base/losses",
        "cohort/queries",
        "dataset/index",
    ],
    partitioned="cohort|method",
    describe=_describe_attribution,
    kinds=["polars"],
)
def attribution(job: Job, out: Path) -> None:
    """Did unlearning do what it should: how far the weights moved, how much held-out music was
    forgotten, how concentrated the scores are, and where a training segment ranks itself."""
    scores = pl.read_parquet(job.inputs["attribution/scores"].path("scores.parquet"))
    queries = pl.read_parquet(job.inputs["cohort/queries"].path("queries.parquet"))
    segments = pl.read_parquet(job.inputs["dataset/index"].path("segments.parquet"))
    base = read_losses(job.inputs["base/losses"])
    after = query_losses(job.inputs["unlearned/losses"])
    checkpoints = job.inputs["unlearned/checkpoints"]
    rows = []
    for query in queries.iter_rows(named=True):
        query_id = query["query_id"]
        own = scores.filter(query_id=query_id)
        moved = Unlearned.load(checkpoints.path(f"{query_id}.safetensors")).relative_norm
        found = {
            "relative_weight_change": (moved, "none"),
            "score_mean": (_mean(own["score"]), "none"),
            "top_1pct_share": (top_share(own["score"], 0.01), "none"),
        }
        for split in ("train", "heldout"):
            ids = segments.filter(split=split)["segment_id"]
            if len(ids):
                found[f"{split}_loss_rise"] = (loss_rise(base, after[query_id], ids), "lower")
        if query["segment_id"] is not None:
            rank = self_rank(own, query["segment_id"])
            if rank is not None:
                found["self_influence_rank"] = (rank, "lower")
        rows += [
            row(
                "attribution",
                query_id,
                metric,
                value,
                method_id=job.method.method_id,
                direction=direction,
            )
            for metric, (value, direction) in found.items()
        ]
    pl.DataFrame(rows, schema=EVALUATION_SCHEMA).write_parquet(out / "metrics.parquet")


def _mean(values: pl.Series) -> float:
    return float(np.mean(values.to_numpy()))
