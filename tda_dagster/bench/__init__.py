"""The bench: attribution methods held against what retraining showed.

What belongs here: the study that the bench is about, the ground truth of it that ships with the
package, and the one undertaking that scores methods on it. The bench is a study like any other, in
a folder of its own, and everything it computes is an asset of the graph.
"""

from collections.abc import Sequence
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import polars as pl

from tda_dagster.attribution.methods import method_class
from tda_dagster.diffusion.latents import LatentSegments, concatenate
from tda_dagster.errors import TdaError
from tda_dagster.evaluation.counterfactual import removed_tracks
from tda_dagster.evaluation.ground_truth import (
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
REMOVAL = ("counterfactual/removal", "evaluation/removal")
SHOWN = ("warehouse", "report/bench")


def lay_out_study(folder: Path, *, stored: bool = True) -> None:
    """Write the bench's settings and cohorts into a folder, over what is there of them; unless
    `stored`, they ask for ground truth to be trained there, whatever the package has."""
    with as_file(files(__name__) / "study") as study:
        for source in sorted(study.rglob("*.yaml")):
            text = source.read_text(encoding="utf-8")
            if not stored:
                text = text.replace("  stored: true", "  stored: false")
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
    chosen = workspace.settings.counterfactual
    for name in chosen.removal_methods:
        method_class(name)
    partitions = list(
        dict.fromkeys(p for name in experiments for p in experiment_partitions(workspace, name))
    )
    retrained = [p for p in partitions if _is_retrained_for(workspace, p)]
    materialize(workspace, partitions, names=SCORED, console=console)
    materialize(workspace, retrained, names=TRUTH, console=console)
    left_out = [
        partition
        for partition in retrained
        if (removal and chosen.trains_removal(partition.method.method))
        or _removal_is_stored(workspace, partition)
    ]
    if left_out:
        materialize(workspace, left_out, names=REMOVAL, console=console)
    materialize(workspace, partitions, names=SHOWN, console=console)


def _is_retrained_for(workspace: Workspace, partition: Partition) -> bool:
    """Of targets the truth is known by construction; listed queries are retrained for."""
    return workspace.cohort(partition.cohort).targets is None


def _removal_is_stored(workspace: Workspace, partition: Partition) -> bool:
    """Whether the package knows what becomes of each query without the tracks that the partition's
    method holds most responsible for it; of any query, for a method that is not trained for."""
    settings = workspace.settings
    chosen = settings.counterfactual
    truth = shipped() if settings.counterfactual.stored else None
    if truth is None:
        return False
    scores = _live(workspace, "attribution/scores", str(partition.key)).path("scores.parquet")
    tracks = removed_tracks(
        pl.read_parquet(scores),
        pl.read_parquet(_live(workspace, "dataset/index").path("segments.parquet")),
        truth.queries.segment_ids[: chosen.removal_queries],
        max(chosen.removed_tracks),
        settings.shares.threshold_z,
    )
    wanted = set(removals(tracks, chosen.removed_tracks))
    missing = wanted - truth.known_removals()
    return not missing if chosen.trains_removal(partition.method.method) else missing != wanted


def _live(workspace: Workspace, asset: str, partition: str = "") -> Artifact:
    head = workspace.store.head(asset, partition)
    assert head is not None
    return workspace.store.artifact(head.digest)


def export_ground_truth(workspace: Workspace, folder: Path) -> None:
    """Write what retraining showed of the bench's cohort as the folder that the package has.

    Raises TdaError when nothing was retrained for.
    """
    store = workspace.store
    cohorts = store.partitions("counterfactual/losses")
    if len(cohorts) != 1:
        raise TdaError(
            f"{workspace.root}: ground truth of one cohort is wanted, and there is that of "
            f"{len(cohorts)}; run `tda bench attribution` there first"
        )
    (cohort,) = cohorts

    live = partial(_live, workspace)
    truth, queries = live("counterfactual/losses", cohort), live("cohort/queries", cohort)
    declared = pl.read_parquet(queries.path("queries.parquet"))
    removals = [
        live("counterfactual/removal", partition)
        for partition in store.partitions("counterfactual/removal")
    ]
    files_of = dict(zip(REMOVAL_TABLES, ("losses.parquet", "sounds.parquet"), strict=True))
    GroundTruth(
        about=about(
            workspace.settings,
            pl.read_parquet(live("dataset/index").path("tracks.parquet")),
            declared,
        ),
        queries=concatenate(
            [
                LatentSegments.load(queries.path(f"latents/{query}.safetensors"))
                for query in declared["query_id"]
            ]
        ).keyed_by_id(),
        tables={
            **{
                name: pl.read_parquet(truth.path(f"{name}.parquet"))
                for name in ("losses", "subsets")
            },
            **{
                name: pl.concat(
                    [
                        pl.DataFrame(schema=schema),
                        *(pl.read_parquet(removal.path(files_of[name])) for removal in removals),
                    ]
                )
                .unique()
                .sort(list(schema)[:3])
                for name, schema in REMOVAL_TABLES.items()
            },
        },
    ).save(folder)
