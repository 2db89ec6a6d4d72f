"""Evaluation: what shares would pay wrongly, against what catalogues are worth by retraining."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.cohort import attributed
from assets.preview import table
from assets.warehouse import method_rows, share_rule
from tda_dagster.attribution.support import (
    FLOOR,
    UNMEASURED,
    Support,
    support_digest,
    support_of,
)
from tda_dagster.evaluation.datamodel import Array, bootstrap, by_subset, halves
from tda_dagster.evaluation.metrics import EVALUATION_SCHEMA, row
from tda_dagster.evaluation.payout import (
    Game,
    Values,
    Weighed,
    agreement,
    correlation,
    coverage,
    fitted_exponent,
    fitted_spread,
    fitted_support,
    leave_one_out,
    linear_values,
    payout_error,
    pro_rata,
    rank_correlation,
    read_games,
    reliability,
    true_shares,
)
from tda_dagster.materialization import Job, study_asset
from tda_dagster.store import Artifact
from warehouse.build import build, query
from warehouse.tables import BY_NAME


@dataclass(frozen=True)
class Paid:
    """Payouts and the ends of their intervals (NaN where there are none), [queries, parties]."""

    payout: Array
    low: Array
    high: Array


Figures = Iterator[tuple[str, str, float, str, str]]
"""Subject, metric, value, which way is better, detail."""


def _describe(artifact: Artifact) -> dict[str, Any]:
    metrics = pl.read_parquet(artifact.path("metrics.parquet"))
    return {"figures": table(metrics.filter(pl.col("detail") != "").head(40))}


@study_asset(
    "evaluation/payout",
    version="1",
    inputs=[
        "attribution/scores",
        "counterfactual/losses",
        "counterfactual/coalitions",
        "cohort/queries",
        "dataset/index",
    ],
    settings=["shares"],
    fingerprint=lambda settings, workspace: {"support": support_digest()},
    partitioned="cohort|method",
    on_request=True,
    describe=_describe,
    kinds=["polars"],
)
def payout(job: Job, out: Path) -> None:
    """How far the payouts that follow from the scores are from those that retraining on coalitions
    of catalogues says are right, and the same for paying without attribution."""
    truth = job.inputs["counterfactual/coalitions"]
    tables = {
        name: pl.read_parquet(truth.path(f"{name}.parquet"))
        for name in ("losses", "coalitions", "catalogues")
    }
    games = read_games(tables["losses"], tables["coalitions"], tables["catalogues"])
    rows, resamples, unweighted = [], [], []
    for name, game in games.items():
        parties = tables["catalogues"].filter(catalogues=name)
        found, drawn = _held_against(job, name, game, parties)
        rows += found
        resamples.append(drawn)
        evidence = _paid(job, game, parties, Support(1.0, None)).payout
        unweighted.append(
            Weighed(evidence, _paid(job, game, parties, UNMEASURED).payout, _truth(game))
        )
    rows += _measured_support(job.cohort, unweighted)
    metrics = [
        row(
            "payout",
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
    pl.concat(resamples).write_parquet(out / "resamples.parquet")


def _held_against(
    job: Job, name: str, game: Game, parties: pl.DataFrame
) -> tuple[list[tuple[str, str, float, str, str]], pl.DataFrame]:
    """The figures of one assignment of tracks to parties, and their bootstrap resamples."""
    values = linear_values(game.present, game.mean_losses)
    truth = _truth(game)
    support = support_of(job.method.method, job.settings.shares.support)
    found = _paid(job, game, parties, support)
    paid = found.payout
    figures = list(_per_query(name, game, paid, truth))
    figures += _of_the_truth(job.cohort, name, game)
    by_subsets = _values_by_subsets(job, game, parties)
    if by_subsets is not None:
        alike = agreement(values, by_subsets)
        figures.append((job.cohort, "truth_subsets_agreement", alike, "none", name))
    resamples = []
    rivals = _without_attribution(game, truth)
    for part, chosen in {"": slice(None), **_halves(len(truth))}.items():
        detail = f"{name}, {part}" if part else name
        here = {n: payout_error(shares, truth)[chosen] for n, shares in rivals.items()}
        figures_here, drawn = _compared(job.cohort, detail, payout_error(paid, truth)[chosen], here)
        figures += figures_here
        ranks = np.nanmean(rank_correlation(paid, truth)[chosen])
        figures.append((job.cohort, "payout_rank_correlation", float(ranks), "higher", detail))
        if np.isfinite(found.low).all():
            covered = coverage(found.low[chosen], found.high[chosen], truth[chosen])
            figures.append((job.cohort, "payout_coverage", covered, "none", detail))
        resamples.append(_resample_rows(job, detail, drawn))
    return figures, pl.concat(resamples)


def _truth(game: Game) -> Array:
    return true_shares(linear_values(game.present, game.mean_losses).value)


def _measured_support(cohort: str, games: list[Weighed]) -> Figures:
    """The support that is best on the choosing half of the queries, over all assignments of tracks
    to parties alike, and the spread of intervals that cover 90 of 100 true shares there."""
    here = []
    for game in games:
        choosing = _halves(len(game.truth)).get("choosing", slice(None))
        here.append(Weighed(game.evidence[choosing], game.pro_rata[choosing], game.truth[choosing]))
    support = fitted_support(here)
    yield cohort, "payout_support", support, "none", ""
    yield cohort, "payout_spread", fitted_spread(here, support, FLOOR), "none", ""


def _halves(queries: int) -> dict[str, slice]:
    """Where rules are chosen and where they are confirmed, as for scores."""
    return {name: part for name, (part, _) in halves(queries, queries).items()}


def _without_attribution(game: Game, truth: Array) -> dict[str, Array]:
    """Payouts without attribution: by size, equally, and by the power of size that is best on the
    choosing half."""
    choosing = _halves(len(truth)).get("choosing", slice(None))
    exponent = fitted_exponent(game.segments, truth[choosing])
    return {
        "pro_rata": pro_rata(game.segments),
        "equal": pro_rata(game.segments, 0),
        "power": pro_rata(game.segments, exponent),
    }


def _paid(job: Job, game: Game, parties: pl.DataFrame, support: Support) -> Paid:
    """What the warehouse's views say, were the tracks those of the parties and the method's support
    as given."""
    owner = parties.select("track_id", rightsholder="party")
    index = job.inputs["dataset/index"]
    tracks = pl.read_parquet(index.path("tracks.parquet"))
    methods = method_rows(job.store, {job.method.method_id})
    content = {
        "dim_track": tracks.drop("rightsholder")
        .join(owner, on="track_id", how="left")
        .with_columns(pl.col("rightsholder").fill_null("")),
        "dim_segment": pl.read_parquet(index.path("segments.parquet")),
        "dim_query": attributed(job.inputs["cohort/queries"]),
        "dim_method": methods,
        "fct_score": pl.read_parquet(job.inputs["attribution/scores"].path("scores.parquet")),
        "share_rule": share_rule(job.settings.shares),
        "method_support": methods.select(
            "method_id",
            support=pl.lit(support.support),
            spread=pl.lit(support.spread, pl.Float64),
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "payout.duckdb"
        build(path, content)
        rows = query(path, "SELECT * FROM v_rightsholder_share WHERE NOT is_unattributed")

    def wide(column: str) -> Array:
        values = rows.pivot(on="rightsholder", index="query_id", values=column)
        order = pl.DataFrame({"query_id": game.queries})
        found = order.join(values, on="query_id", how="left", maintain_order="left")
        return found.select(game.parties).cast(pl.Float64).to_numpy()

    return Paid(*(wide(column) for column in ("payout", "payout_low", "payout_high")))


def _values_by_subsets(job: Job, game: Game, parties: pl.DataFrame) -> Values | None:
    """The parties' values from the random subsets of the tracks: the loss regressed on the part of
    each party's segments that a subset keeps. None for too few subsets."""
    source = job.inputs["counterfactual/losses"]
    subsets = pl.read_parquet(source.path("subsets.parquet"))
    kept = (
        subsets.join(parties, on="track_id")
        .group_by("subset", "party")
        .agg(pl.col("segments").sum())
        .pivot(on="party", index="subset", values="segments")
        .sort("subset")
        .fill_null(0)
    )
    losses = by_subset(pl.read_parquet(source.path("losses.parquet")), game.queries)
    parts = kept.select(game.parties).to_numpy() / game.segments
    try:
        return linear_values(parts, losses.mean(axis=0))
    except ValueError:
        return None


def _per_query(name: str, game: Game, paid: Array, truth: Array) -> Figures:
    errors, over = payout_error(paid, truth), (paid - truth).max(axis=1)
    for number, query_id in enumerate(game.queries):
        if np.isfinite(errors[number]):
            yield query_id, "payout_error", float(errors[number]), "lower", name
            yield query_id, "largest_overpayment", float(over[number]), "lower", name


def _of_the_truth(cohort: str, name: str, game: Game) -> Figures:
    """How reliable the truth is."""
    found = reliability(game)
    values = linear_values(game.present, game.mean_losses).value
    known = {
        "truth_exact_error": found.exact_error,
        "truth_halves_correlation": found.halves,
        "truth_seeds_correlation": found.seeds,
        "truth_leave_one_out_correlation": correlation(leave_one_out(game), values),
    }
    for metric, value in known.items():
        if np.isfinite(value):
            yield cohort, metric, value, "none", name


def _compared(
    cohort: str, detail: str, errors: Array, rivals: Mapping[str, Array]
) -> tuple[list[tuple[str, str, float, str, str]], Array]:
    """The mean payout error of a method and of the rivals, the difference from the best of them,
    and the resamples of the former; intervals are over queries."""
    known = np.isfinite(errors)
    best = min(rivals, key=lambda name: float(rivals[name][known].mean()))
    rows = [
        (cohort, f"payout_error_{name}", float(error[known].mean()), "none", detail)
        for name, error in rivals.items()
    ]
    estimates = {
        "payout_error": errors[known],
        "payout_difference": errors[known] - rivals[best][known],
    }
    drawn = {}
    for metric, values in estimates.items():
        estimate = bootstrap(partial(_mean, values), len(values), 1)
        low, high = estimate.interval
        rows += [
            (cohort, metric, estimate.value, "lower", detail),
            (cohort, f"{metric}_low", low, "lower", detail),
            (cohort, f"{metric}_high", high, "lower", detail),
        ]
        drawn[metric] = estimate.resamples
    return rows, drawn["payout_error"]


def _mean(values: Array, queries: NDArray[np.int64], _: NDArray[np.int64]) -> float:
    return float(values[queries].mean())


def _resample_rows(job: Job, detail: str, values: Array) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "cohort": job.cohort,
            "method_id": job.method.method_id,
            "metric": "payout_error",
            "detail": detail,
            "resample": range(len(values)),
            "value": values,
        },
        schema=BY_NAME["fct_resample"].schema,
    )
