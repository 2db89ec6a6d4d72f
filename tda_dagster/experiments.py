"""Experiments: cohorts crossed with method specs, what they will cost, and the jobs that run them.

What belongs here: everything about running many partitions as one undertaking. What an experiment
is made of is in the settings; what is computed per partition is in the asset graph.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import dagster as dg
import polars as pl

from tda_dagster.attribution.groups import groups_by
from tda_dagster.attribution.methods import JointScoringSpec, UnlearningSpec
from tda_dagster.attribution.sweep import sweep
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.opening import open_model
from tda_dagster.errors import TdaError
from tda_dagster.materialization import STUDY_ASSETS
from tda_dagster.numerics import fixed_numerics
from tda_dagster.partitions import Partition, experiment_partitions
from tda_dagster.queries import count_windows
from tda_dagster.terminal import Terminal
from tda_dagster.workspace import Workspace

_TIMED_SEGMENTS = 32
_PER_PARTITION_S = 4.0
"""Seconds that a partition takes beside models: runs, tables, checks."""


def run_experiment(workspace: Workspace, name: str, console: Terminal) -> None:
    """Run what is not yet there of an experiment; says first what that will cost."""
    from tda_dagster.execution import materialize  # imports the definitions, which import this

    def choose(partitions: Sequence[Partition]) -> Sequence[Partition]:
        found = preflight(workspace, partitions)
        console.print(str(found), markup=False, highlight=False)
        return found.left

    partitions = experiment_partitions(workspace, name)
    materialize(workspace, partitions, names=None, console=console, choose=choose)


@dataclass(frozen=True)
class Preflight:
    """What an experiment will cost on this machine."""

    partitions: int
    left: tuple[Partition, ...]
    """Those that something is missing of, or stale."""
    unlearnings: int
    forwards: int
    seconds: float

    def __str__(self) -> str:
        if not self.left:
            return f"preflight  all {self.partitions} partitions are there already"
        cached = self.partitions - len(self.left)
        return (
            f"preflight  {self.partitions} partitions (cohort × method spec), {cached} of "
            f"them there already; to do: {self.unlearnings} unlearnings and "
            f"{self.forwards:,} forward passes, about {_duration(self.seconds)} on this machine"
        )


def _duration(seconds: float) -> str:
    return f"{math.ceil(seconds / 60)} min" if seconds > 90 else f"{math.ceil(seconds)} s"


def preflight(workspace: Workspace, partitions: Sequence[Partition]) -> Preflight:
    """Count what is left to do, and time a little of each kind of it. The shared part of the
    study must be there."""
    left = _unfinished(workspace, partitions)
    segments = _segments(workspace)
    seen: set[str] = set()
    unlearnings = forwards = 0
    generating = 0
    for partition in left:
        method = partition.method
        cohort = workspace.cohort(partition.cohort)
        queries = count_windows(workspace, partition.cohort)
        if isinstance(method, JointScoringSpec):
            forwards += method.forwards(queries, segments, partial(_group_sizes, workspace))
        if not isinstance(method, UnlearningSpec):
            continue
        # Specs that differ in scoring alone share their checkpoints and sweeps.
        shared = method.model_copy(update={"scoring": type(method.scoring)()})
        key = f"{partition.cohort}|{shared.method_id}"
        if key in seen:
            continue
        seen.add(key)
        unlearnings += queries
        forwards += queries * segments * len(method.plan.indices)
        forwards += queries * method.unlearning_forwards
        if cohort.fidelity:
            generating += workspace.settings.fidelity.pieces
    per_forward, per_piece = _timings(workspace) if forwards else (0.0, 0.0)
    seconds = forwards * per_forward + generating * per_piece + len(left) * _PER_PARTITION_S
    return Preflight(len(partitions), left, unlearnings, forwards, seconds)


def _unfinished(workspace: Workspace, partitions: Sequence[Partition]) -> tuple[Partition, ...]:
    import assets  # noqa: F401  (declares them; assets import nothing of this module)

    return tuple(p for p in partitions if not _is_current(workspace, p))


def _is_current(workspace: Workspace, partition: Partition) -> bool:
    """Whether all partitioned assets are live, made by the present code from what is live."""
    for declared in STUDY_ASSETS.values():
        if declared.partitioned is None or declared.on_request:
            continue
        head = workspace.store.head(declared.name, declared.store_partition(partition))
        if head is None:
            return False
        inputs = {n: r.digest for n, r in declared.heads(workspace.store, partition).items()}
        wanted = declared.recipe(workspace.settings, inputs, partition, workspace)
        if wanted.key != head.recipe.key:
            return False
    return True


def _latents(workspace: Workspace) -> list[LatentSegments]:
    head = workspace.store.head("dataset/latents")
    if head is None:
        raise TdaError("dataset/latents has not been materialised; run `tda materialize dataset`")
    artifact = workspace.store.artifact(head.digest)
    return [LatentSegments.load(artifact.path(name)) for name in artifact.entries]


def _segments(workspace: Workspace) -> int:
    return sum(len(shard) for shard in _latents(workspace))


def _group_sizes(workspace: Workspace, column: str) -> list[int]:
    """The numbers of training segments of the groups of a column of `dim_track`."""
    head = workspace.store.head("dataset/index")
    if head is None:
        raise TdaError("dataset/index has not been materialised; run `tda materialize dataset`")
    index = workspace.store.artifact(head.digest)
    tracks = pl.read_parquet(index.path("tracks.parquet"))
    segments = pl.read_parquet(index.path("segments.parquet")).filter(split="train")
    groups = groups_by(column, tracks, segments, segments["segment_id"].to_list())
    return [len(places) for places in groups.values()]


def _timings(workspace: Workspace) -> tuple[float, float]:
    """Seconds of one forward pass in a sweep by all workers together, and of one generated piece.

    Generating is mostly Python's work, which threads do one after the other.
    """
    head = workspace.store.head("base/checkpoint")
    if head is None:
        raise TdaError("base/checkpoint has not been materialised; run `tda materialize base`")
    folder = workspace.plain_folder(workspace.store.artifact(head.digest))
    model = open_model(folder / "pipeline", workspace.settings.model.device)
    segments = _latents(workspace)[0]
    some = segments.take(range(min(_TIMED_SEGMENTS, len(segments))))
    plan = NoisePlan(draws=2, seed=0)
    with fixed_numerics():
        sweep(model, some.take([0]), plan)  # the first pass of a process is slower
        start = time.monotonic()
        sweep(model, some, plan, batch_size=workspace.settings.sweep.batch_size)
        per_forward = (time.monotonic() - start) / (2 * len(some))
        return per_forward / workspace.workers, _time_of_a_piece(model, workspace)


def _time_of_a_piece(model: MusicModel, workspace: Workspace) -> float:
    settings = workspace.settings.fidelity
    start = time.monotonic()
    latents = model.generate(
        "",
        negative_prompt="",
        seed=0,
        seconds=model.window_seconds,
        steps=settings.inference_steps,
        guidance_scale=settings.guidance_scale,
    )
    model.decode(latents.unsqueeze(0))
    return time.monotonic() - start


def experiment_jobs(workspace: Workspace) -> list[dg.JobDefinition]:
    """A job per experiment of the settings: one click runs all its partitions, each as a run of
    its own through the asset graph."""
    return [_job(name) for name in workspace.settings.experiments]


def _job(name: str) -> dg.JobDefinition:
    @dg.op(name=f"run_{name}")
    def run(context: dg.OpExecutionContext) -> None:
        console = Terminal(quiet=True)
        workspace = Workspace.find()
        context.log.info(f"experiment {name}: {len(experiment_partitions(workspace, name))} runs")
        run_experiment(workspace, name, console)

    @dg.job(
        name=f"experiment_{name}",
        executor_def=dg.in_process_executor,
        description=f"Experiment {name} of params.yaml: all its cohorts under all its method "
        "specs, as runs of their own. What is there already is not computed again.",
    )
    def experiment() -> None:
        run()

    return experiment
