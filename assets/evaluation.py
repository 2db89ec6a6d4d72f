"""Evaluation: figures about the autoencoder and about an attribution."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from assets.cohort import attributed
from assets.dataset import manifest_uri, read_index, segment_spec
from assets.losses import read_losses
from assets.material import read_embedding
from assets.preview import picture, table
from assets.unlearned import QUERY_LOSSES, SUMMARY, query_losses, unlearning_spec
from tda_dagster.attribution.methods import UnlearningSpec
from tda_dagster.attribution.scoring import SCORERS, evidence
from tda_dagster.attribution.similarity import cosine, standardised
from tda_dagster.corpus import iter_segments
from tda_dagster.diffusion.autoencoder import encode, open_autoencoder
from tda_dagster.evaluation.datamodel import (
    Array,
    by_subset,
    datamodelling_scores,
    group_scores,
    halves,
    mean_datamodelling_score,
    noise_ceiling,
)
from tda_dagster.evaluation.hubs import TOP, independence
from tda_dagster.evaluation.metrics import (
    EVALUATION_SCHEMA,
    gini,
    half_coverage,
    loss_rise,
    relative_loss_rises,
    row,
    self_rank,
    similarity_of_extremes,
    top_share,
)
from tda_dagster.evaluation.reconstruction import compare
from tda_dagster.materialization import Job, study_asset
from tda_dagster.report import figures
from tda_dagster.store import Artifact
from warehouse.tables import BY_NAME

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
    version="2",
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


SIMILARITY_TRACKS = 10
"""Most and least attributed tracks whose similarity to the query is measured."""


@study_asset(
    "evaluation/attribution",
    version="5",
    inputs=[
        "attribution/scores",
        "unlearned/checkpoints",
        "unlearned/losses",
        "base/losses",
        "cohort/queries",
        "cohort/embeddings",
        "dataset/index",
        "dataset/embeddings",
    ],
    partitioned="cohort|method",
    describe=_describe_attribution,
    kinds=["polars"],
)
def attribution(job: Job, out: Path) -> None:
    """What can be said of an attribution without retraining: where a training segment ranks
    itself, how alike the most and the least attributed tracks sound to the query, how concentrated
    the scores are, how far they depend on the query, and, where something was unlearned, what else
    was forgotten."""
    queries = attributed(job.inputs["cohort/queries"])
    scores = pl.read_parquet(job.inputs["attribution/scores"].path("scores.parquet"))
    segments = pl.read_parquet(job.inputs["dataset/index"].path("segments.parquet"))
    rows = []
    for query in queries.iter_rows(named=True):
        own = scores.filter(query_id=query["query_id"])
        found = _concentration(own)
        if query["segment_id"] is not None:
            rank = self_rank(own, query["segment_id"])
            if rank is not None:
                found.append(("self_influence_rank", rank, "lower", ""))
        found += _similarity(job, query["query_id"], own, segments)
        rows += [(query["query_id"], *figure) for figure in found]
    rows += [(job.cohort, *figure) for figure in _independence(scores, segments)]
    method = unlearning_spec(job)
    if method is not None:
        rows += _forgetting(job, segments)
        rows += _coverage(job, method, segments)
    metrics = [
        row(
            "attribution",
            subject,
            metric,
            value,
            method_id=job.method.method_id,
            direction=direction,
            detail=detail,
        )
        for subject, metric, value, direction, detail in rows
    ]
    pl.DataFrame(metrics, schema=EVALUATION_SCHEMA).write_parquet(out / "metrics.parquet")


Figure = tuple[str, float, str, str]
"""Metric, value, which way is better, detail."""


def _concentration(scores: pl.DataFrame) -> list[Figure]:
    """How few segments hold most of what is above the median: alike for any scale of scores."""
    above = scores["score"] - scores["score"].median()
    return [
        ("gini", gini(above), "none", ""),
        ("top_1pct_share", top_share(above, 0.01), "none", ""),
    ]


def _independence(scores: pl.DataFrame, segments: pl.DataFrame) -> Iterator[Figure]:
    """How far the cohort's scores depend on the query; nothing for a cohort of one query."""
    train = segments.filter(split="train")
    wide = scores.join(train, on="segment_id", how="semi").pivot(
        on="query_id", index="segment_id", values="score"
    )
    found = independence(wide.sort("segment_id").drop("segment_id").to_numpy().T)
    if found is not None:
        top = f"top {TOP}"
        yield "first_direction_share", found.first_direction_share, "none", ""
        yield "query_rank_correlation", found.rank_correlation, "none", ""
        yield "occurrence_skewness", found.occurrence_skewness, "none", top
        yield "largest_occurrence", found.largest_occurrence, "none", top


_LIKENESS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "timbre": lambda queries, segments, train: cosine(
        standardised(queries, train), standardised(segments, train)
    ),
    "clap": lambda queries, segments, train: cosine(queries, segments),
}
"""How the embeddings that are vectors are compared: as the methods of the same names do."""


def _similarity(
    job: Job, query_id: str, scores: pl.DataFrame, segments: pl.DataFrame
) -> Iterator[Figure]:
    """How alike the extremes of the ranking sound to the query, per embedding that is a vector."""
    for name, likeness in _LIKENESS.items():
        if not job.inputs["dataset/embeddings"].has(f"{name}.safetensors"):
            continue
        train = read_embedding(job.inputs["dataset/embeddings"], name)
        query = read_embedding(job.inputs["cohort/embeddings"], name).of([query_id])
        ids = scores["segment_id"].to_list()
        alike = likeness(query, train.of(ids), train.vectors)[0]
        compared = scores.with_columns(similarity=pl.Series(alike.numpy())).join(
            segments.select("segment_id", "track_id"), on="segment_id"
        )
        most, least = similarity_of_extremes(compared, SIMILARITY_TRACKS)
        yield "topk_similarity", most, "higher", name
        yield "bottomk_similarity", least, "lower", name


def _forgetting(job: Job, segments: pl.DataFrame) -> Iterator[tuple[str, str, float, str, str]]:
    """How far the weights moved, and how much the losses of queries and music rose."""
    checkpoints = job.inputs["unlearned/checkpoints"]
    moved = pl.read_parquet(checkpoints.path(SUMMARY)).select("query_id", "relative_norm")
    for query_id, norm in moved.iter_rows():
        yield query_id, "relative_weight_change", norm, "none", ""
    own = pl.read_parquet(job.inputs["unlearned/losses"].path(QUERY_LOSSES))
    rises = own.group_by("segment_id", maintain_order=True).agg(
        rise=(pl.col("loss_unlearned") - pl.col("loss")).mean()
    )
    for query_id, rise in rises.iter_rows():
        yield query_id, "query_loss_rise", rise, "none", ""
    base = read_losses(job.inputs["base/losses"])
    for query_id, after in query_losses(job.inputs["unlearned/losses"]).items():
        for split in ("train", "heldout"):
            ids = segments.filter(split=split)["segment_id"]
            if len(ids):
                yield query_id, f"{split}_loss_rise", loss_rise(base, after, ids), "lower", ""


def _coverage(
    job: Job, method: UnlearningSpec, segments: pl.DataFrame
) -> Iterator[tuple[str, str, float, str, str]]:
    """Whether the standard errors of scores are what they say."""
    scoring = method.scoring
    score = partial(
        SCORERS[scoring.score],
        mask_padding=scoring.mask_padding,
        timestep_min=scoring.timestep_min,
    )
    train = segments.filter(split="train").select("segment_id")
    base = read_losses(job.inputs["base/losses"]).join(train, on="segment_id", how="semi")
    base = base.filter(pl.col("timestep") >= scoring.timestep_min)
    for query_id, losses in query_losses(job.inputs["unlearned/losses"]).items():
        after = losses.join(train, on="segment_id", how="semi")
        found = half_coverage(score, base, after.filter(pl.col("timestep") >= scoring.timestep_min))
        if found is not None:
            yield query_id, "interval_coverage", found, "none", "halves of the draws"


READINGS: dict[str, Callable[[Array, float], Array]] = {
    "lds": lambda scores, threshold_z: scores,
    "evidence_lds": evidence,
}
"""What of the scores [queries, segments] is added up to foretell a subset's losses, by the metric:
the scores as they are, or what shares are made of."""


@study_asset(
    "evaluation/datamodel",
    version="4",
    inputs=["attribution/scores", "counterfactual/losses", "dataset/index"],
    settings=["shares.threshold_z"],
    partitioned="cohort|method",
    on_request=True,
    describe=_describe_attribution,
    kinds=["polars"],
)
def datamodel(job: Job, out: Path) -> None:
    """The linear datamodelling score: how well the scores, and the evidence that shares are made
    of, foretell each query's loss under models that were trained on random subsets; under all of
    them, and for each half of the queries under its half of the subsets."""
    truth = job.inputs["counterfactual/losses"]
    losses = pl.read_parquet(truth.path("losses.parquet"))
    queries = losses["query_id"].unique(maintain_order=True).to_list()
    scores, kept = _scores_and_subsets(job, queries, pl.read_parquet(truth.path("subsets.parquet")))
    found = by_subset(losses, queries)
    mean = found.mean(axis=0)

    def figure(subject: str, metric: str, value: float, detail: str = "") -> dict[str, object]:
        way = "higher" if metric in READINGS else "none"
        method_id = job.method.method_id
        return row(
            "datamodel", subject, metric, value, method_id=method_id, direction=way, detail=detail
        )

    parts = {"": (slice(None), slice(None)), **halves(*mean.shape)}
    rows, drawn_again = [], []
    for metric, read in READINGS.items():
        foretold = group_scores(read(scores, job.settings.shares.threshold_z), kept)
        for detail, (asked, subsets) in parts.items():
            here = foretold[asked, subsets], mean[asked, subsets]
            own = datamodelling_scores(*here)
            rows += [
                figure(query, metric, value, detail)
                for query, value in zip(queries[asked], own, strict=True)
            ]
            estimate = mean_datamodelling_score(*here)
            low, high = estimate.interval
            rows += [
                figure(job.cohort, metric, estimate.value, detail),
                figure(job.cohort, f"{metric}_low", low, detail),
                figure(job.cohort, f"{metric}_high", high, detail),
            ]
            drawn_again.append(
                pl.DataFrame(
                    {
                        "cohort": job.cohort,
                        "method_id": job.method.method_id,
                        "metric": metric,
                        "detail": detail,
                        "resample": range(len(estimate.resamples)),
                        "value": estimate.resamples,
                    },
                    schema=BY_NAME["fct_resample"].schema,
                )
            )
    if len(found) > 1:
        rows.append(figure(job.cohort, "noise_ceiling", noise_ceiling(found)))
    pl.DataFrame(rows, schema=EVALUATION_SCHEMA).write_parquet(out / "metrics.parquet")
    pl.concat(drawn_again).write_parquet(out / "resamples.parquet")


def _scores_and_subsets(
    job: Job, queries: list[str], subsets: pl.DataFrame
) -> tuple[Array, NDArray[np.bool_]]:
    """Scores [queries, training segments], and which segments each subset keeps [subsets, ...]."""
    scores = pl.read_parquet(job.inputs["attribution/scores"].path("scores.parquet"))
    segments = pl.read_parquet(job.inputs["dataset/index"].path("segments.parquet"))
    train = segments.filter(split="train").sort("segment_id")
    wide = scores.pivot(on="query_id", index="segment_id", values="score").sort("segment_id")
    kept = [
        train["track_id"].is_in(part["track_id"].implode()).to_numpy()
        for part in subsets.partition_by("subset", maintain_order=True)
    ]
    return wide.select(queries).to_numpy().T, np.stack(kept)


@study_asset(
    "evaluation/removal",
    version="2",
    inputs=["counterfactual/removal", "attribution/scores"],
    partitioned="cohort|method",
    on_request=True,
    describe=_describe_attribution,
    kinds=["polars"],
)
def removal(job: Job, out: Path) -> None:
    """How much a query's loss rose, and how its regenerated audio changed, when the tracks that
    are most attributed to it were left out of training, by the number of them."""
    source = job.inputs["counterfactual/removal"]
    removed = pl.read_parquet(source.path("removed.parquet"))
    sizes = removed.select("query_id", "removed", "tracks").unique()
    losses = pl.read_parquet(source.path("losses.parquet")).join(sizes, on=["query_id", "removed"])
    rises = relative_loss_rises(losses).sort("query_id", "tracks")
    figures = [
        (query, "relative_loss_rise", rise, "higher", _tracks(count))
        for query, count, rise in rises.select("query_id", "tracks", "rise").rows()
    ]
    sounds = pl.read_parquet(source.path("sounds.parquet")).join(sizes, on=["query_id", "removed"])
    figures += [
        (query, "regenerated_similarity", alike, "lower", f"{embedding}, {_tracks(count)}")
        for query, embedding, alike, count in sounds.select(
            "query_id", "embedding", "similarity", "tracks"
        ).rows()
    ]
    metrics = [
        row(
            "removal",
            subject,
            metric,
            value,
            method_id=job.method.method_id,
            direction=way,
            detail=detail,
        )
        for subject, metric, value, way, detail in figures
    ]
    pl.DataFrame(metrics, schema=EVALUATION_SCHEMA).write_parquet(out / "metrics.parquet")


def _tracks(count: int) -> str:
    return "1 track" if count == 1 else f"{count} tracks"
