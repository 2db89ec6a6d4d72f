"""Everything Dagster shows: assets, checks, the job of the whole chain, the partitions' sensor."""

import dagster as dg

import assets  # noqa: F401  (declares them)
from tda_dagster.dagster_assets import ON_REQUEST, dagster_assets
from tda_dagster.experiments import experiment_jobs
from tda_dagster.partitions import COHORT_BY_METHOD, declared_partitions, register
from tda_dagster.workspace import Workspace

main_job = dg.define_asset_job(
    "main_job",
    selection=dg.AssetSelection.all() - dg.AssetSelection.tag(ON_REQUEST, "true"),
    partitions_def=COHORT_BY_METHOD,
    description="The whole chain for one cohort and one method spec: from music to the report.",
)


@dg.sensor(
    job=main_job,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Makes cohorts/*.yaml and the method specs of params.yaml known as partitions.",
)
def partitions_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Starts nothing by itself: attribution costs, so a person decides when."""
    workspace = Workspace.find()
    known = declared_partitions(workspace)
    register(context.instance, workspace, known)
    return dg.SkipReason(f"{len(known)} partitions registered")


defs = dg.Definitions(
    assets=dagster_assets(Workspace.find()),
    jobs=[main_job, *experiment_jobs(Workspace.find())],
    sensors=[partitions_sensor],
    # Steps are long and the store is shared: separate processes would cost seconds each, for
    # nothing on a machine that one step keeps busy.
    executor=dg.in_process_executor,
)
