"""The bench: attribution methods held against what retraining showed.

What belongs here: the study that the bench is about, the ground truth of it that ships with the
package, and the one undertaking that scores methods on it. The bench is a study like any other, in
a folder of its own, and everything it computes is an asset of the graph.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path

import polars as pl

from tda_dagster.attribution.methods import experiment_specs, method_class
from tda_dagster.attribution.support import Support
from tda_dagster.diffusion.latents import LatentSegments, concatenate
from tda_dagster.errors import TdaError
from tda_dagster.evaluation.counterfactual import removed_tracks
from tda_dagster.evaluation.ground_truth import (
    COALITION_TABLES,
    REMOVAL_TABLES,
    GroundTruth,
    about,
    removals,
    shipped,
)
from tda_dagster.execution import materialize
from tda_dagster.partitions import Partition, experiment_partitions
from tda_dagster.store import Artifact
from tda_dagster.terminal import Terminal
from tda_dagster.workspace import Workspace

SCORED = (
    "dataset",
    "base",
    "cohort",
    "unlearned",
    "attribution",
    "evaluation/reconstruction",
    "evaluation/attribution",
)
TRUTH = ("counterfactual/losses", "evaluation/datamodel")
PAYOUT = ("counterfactual/coalitions", "evaluation/payout")
REMOVAL = ("counterfactual/removal", "evaluation/removal")
SHOWN = ("warehouse", "report/bench")


def lay_out_study(folder: Path, *, stored: bool = True) -> None:
    """Write the bench's settings and cohorts into a folder, over what is there of them; unless
    `stored`, they ask for pieces to be generated and ground truth to be trained there, whatever the
    package has."""
    with as_file(files(__name__) / "study") as study:
        for source in sorted(study.rglob("*.yaml")):
            text = source.read_text(encoding="utf-8")
            if not stored:
                text = text.replace("  stored: true", "  stored: false")
                text = text.replace("pieces: ground_truth", "pieces: model")
            target = folder / source.relative_to(study)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")


def run_bench(
    workspace: Workspace, experiments: Sequence[str], *, removal: bool, console: Terminal
) -> None:
    """Score the methods of some experiments of the bench's study and hold them against ground
    truth; with `removal`, leave out of training what each of them found most influential, too.
    Without it, and of methods that `counterfactual.removal_methods` leaves out, that is shown as
    far as it is stored."""
    for name in workspace.settings.counterfactual.removal_methods:
        method_class(name)  # so that a mistake is told before anything is computed
    partitions = list(
        dict.fromkeys(p for name in experiments for p in experiment_partitions(workspace, name))
    )
    retrained = [p for p in partitions if _is_retrained_for(workspace, p)]
    materialize(workspace, partitions, names=SCORED, console=console)
    materialize(workspace, retrained, names=TRUTH, console=console)
    paid = [p for p in retrained if _coalitions_are_at_hand(workspace, p)]
    if paid:
        materialize(workspace, paid, names=PAYOUT, console=console)
    left_out = [
        partition
        for partition in retrained
        if (removal and _trains_removal(workspace, partition))
        or _removal_is_stored(workspace, partition)
    ]
    if left_out:
        materialize(workspace, left_out, names=REMOVAL, console=console)
    materialize(workspace, partitions, names=SHOWN, console=console)


def _is_retrained_for(workspace: Workspace, partition: Partition) -> bool:
    """Of targets the truth is known by construction; listed queries are retrained for."""
    return workspace.cohort(partition.cohort).targets is None


def _coalitions_are_at_hand(workspace: Workspace, partition: Partition) -> bool:
    """Whether payout errors can be had: the package has the trainings on coalitions, or everything
    is to be trained here."""
    settings = workspace.settings.counterfactual.of(partition.cohort)
    truth = shipped(partition.cohort) if settings.stored else None
    return not settings.stored or (truth is not None and set(COALITION_TABLES) <= set(truth.tables))


def _trains_removal(workspace: Workspace, partition: Partition) -> bool:
    """Whether models are trained without what the partition's method found."""
    settings = workspace.settings.counterfactual.of(partition.cohort)
    return settings.trains_removal(partition.method.method)


def _removal_is_stored(workspace: Workspace, partition: Partition) -> bool:
    """Whether the package knows what becomes of each query without the tracks that the partition's
    method holds most responsible for it; of any query, for a method that is not trained for."""
    settings = workspace.settings.counterfactual.of(partition.cohort)
    truth = shipped(partition.cohort) if settings.stored else None
    if truth is None:
        return False
    scores = _live(workspace, "attribution/scores", str(partition.key)).path("scores.parquet")
    tracks = removed_tracks(
        pl.read_parquet(scores),
        pl.read_parquet(_live(workspace, "dataset/index").path("segments.parquet")),
        truth.queries.segment_ids[: settings.removal_queries],
        max(settings.removed_tracks),
        workspace.settings.shares.threshold_z,
    )
    wanted = set(removals(tracks, settings.removed_tracks))
    missing = wanted - truth.known_removals()
    return not missing if _trains_removal(workspace, partition) else missing != wanted


def _live(workspace: Workspace, asset: str, partition: str = "") -> Artifact:
    head = workspace.store.head(asset, partition)
    assert head is not None
    return workspace.store.artifact(head.digest)


def export_ground_truth(workspace: Workspace, folder: Path) -> list[str]:
    """Write what retraining showed of the bench's cohorts as the folders that the package has, one
    per cohort; returns the cohorts.

    Raises TdaError when nothing was retrained for.
    """
    cohorts = sorted(
        {
            cohort
            for asset in ("counterfactual/losses", "counterfactual/coalitions")
            for cohort in workspace.store.partitions(asset)
        }
    )
    if not cohorts:
        raise TdaError(
            f"{workspace.root}: there is no ground truth; run `tda bench attribution` there first"
        )
    for cohort in cohorts:
        _ground_truth(workspace, cohort).save(folder / cohort)
    return cohorts


CALIBRATED = "generated"
"""The cohort on whose choosing half settings and rules are chosen."""


def measured_on_bench(workspace: Workspace) -> dict[str, Support]:
    """The support of the methods of the bench, each in the settings that the study has for it.

    Raises TdaError when no payout errors were measured.
    """
    found = {}
    for spec in experiment_specs(workspace.settings, "bench"):
        head = workspace.store.head("evaluation/payout", f"{CALIBRATED}|{spec.method_id}")
        if head is None:
            continue
        metrics = pl.read_parquet(workspace.store.artifact(head.digest).path("metrics.parquet"))
        values = dict(metrics.filter(detail="").select("metric", "value").iter_rows())
        found[spec.method] = Support(
            round(values["payout_support"], 2), round(values["payout_spread"], 3)
        )
    if not found:
        raise TdaError(
            f"{workspace.root}: no payout errors were measured; run `tda bench attribution` there "
            "first"
        )
    return found


def _ground_truth(workspace: Workspace, cohort: str) -> GroundTruth:
    """All that retraining showed of a cohort."""
    queries = _live(workspace, "cohort/queries", cohort)
    declared = pl.read_parquet(queries.path("queries.parquet"))
    return GroundTruth(
        about=about(
            workspace.settings.model.training,
            workspace.settings.counterfactual.of(cohort),
            pl.read_parquet(_live(workspace, "dataset/index").path("tracks.parquet")),
            declared,
        ),
        queries=concatenate(
            [
                LatentSegments.load(queries.path(f"latents/{query}.safetensors"))
                for query in declared["query_id"]
            ]
        ).keyed_by_id(),
        tables={
            **_files(workspace, "counterfactual/losses", cohort, _SUBSET_FILES),
            **_files(workspace, "counterfactual/coalitions", cohort, _COALITION_FILES),
            **_removals(workspace, cohort),
        },
    )


_SUBSET_FILES = {"losses": "losses", "subsets": "subsets"}
_COALITION_FILES = dict(zip(COALITION_TABLES, ("losses", "coalitions", "catalogues"), strict=True))
_REMOVAL_FILES = dict(zip(REMOVAL_TABLES, ("losses", "sounds"), strict=True))


def _files(
    workspace: Workspace, asset: str, partition: str, names: Mapping[str, str]
) -> dict[str, pl.DataFrame]:
    """Parquet files of a live artifact, by other names; none where there is no artifact."""
    if partition not in workspace.store.partitions(asset):
        return {}
    artifact = _live(workspace, asset, partition)
    return {name: pl.read_parquet(artifact.path(f"{file}.parquet")) for name, file in names.items()}


def _removals(workspace: Workspace, cohort: str) -> dict[str, pl.DataFrame]:
    """What leaving tracks out showed, for all methods together."""
    asset = "counterfactual/removal"
    found = [
        _files(workspace, asset, partition, _REMOVAL_FILES)
        for partition in workspace.store.partitions(asset)
        if partition.partition("|")[0] == cohort
    ]
    if not found:
        return {}
    return {
        name: pl.concat(tables[name] for tables in found).unique().sort(list(schema)[:3])
        for name, schema in REMOVAL_TABLES.items()
    }
