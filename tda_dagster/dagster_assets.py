"""Study assets as Dagster assets.

What belongs here: everything Dagster needs to know of a declared asset, and the one function that
Dagster calls, which finds or makes the artifact, checks it and reports it. How artifacts are
reported that came to be without this Dagster is in `reconcile`.
"""

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg

from tda_dagster.faults import in_words, of_environment, subjects
from tda_dagster.killed_runs import tag_run
from tda_dagster.masking import cut_secrets, masked
from tda_dagster.materialization import STUDY_ASSETS, Job, StudyAsset, Verdict, settings_view
from tda_dagster.numerics import fixed_numerics
from tda_dagster.partitions import COHORT_BY_METHOD, Partition, stored_spec
from tda_dagster.progress import Progress
from tda_dagster.schema import dagster_schema
from tda_dagster.store import Artifact, Materialized, Ref, canonical_json, digest_of
from tda_dagster.workspace import Workspace, nested

ON_REQUEST = "on_request"
"""Tag of the assets that are materialised only when they are asked for by name."""


def dagster_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """All declared assets, with the workspace's settings as defaults of their launchpads."""
    versions = code_versions(workspace)
    return [
        _dagster_asset(declared, workspace, versions[name])
        for name, declared in STUDY_ASSETS.items()
    ]


def code_versions(workspace: Workspace) -> dict[str, str]:
    """What Dagster compares of each asset, by its name, to tell whether it is stale."""
    versions: dict[str, str] = {}
    for declared in STUDY_ASSETS.values():
        _code_version(declared, workspace, versions)
    return versions


def asset_key(name: str) -> dg.AssetKey:
    """The key of a study asset in Dagster."""
    return dg.AssetKey(name.split("/"))


def metadata(declared: StudyAsset, ref: Ref, artifact: Artifact) -> dict[str, Any]:
    """What people see of an artifact, however it came to be live. One of another version may have
    other files, so it is not described."""
    as_declared = ref.recipe.code_version == declared.version
    return {
        "computed in (s)": round(ref.seconds, 2),
        "size (MB)": round(artifact.size_bytes / 1e6, 3),
        "files": len(artifact.entries),
        "recipe": ref.recipe.key,
        **(declared.describe(artifact) if as_declared else {}),
    }


def _dagster_asset(
    declared: StudyAsset, workspace: Workspace, code_version: str
) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(declared.name),
        deps=[asset_key(name) for name in (*declared.inputs, *declared.gathers)],
        group_name=declared.name.split("/")[0],
        kinds=set(declared.kinds),
        tags={ON_REQUEST: "true"} if declared.on_request else None,
        owners=["team:attribution"],
        description=declared.produce.__doc__,
        code_version=code_version,
        partitions_def=COHORT_BY_METHOD if declared.partitioned else None,
        config_schema=dagster_schema(workspace.settings, declared.settings),
        check_specs=[
            dg.AssetCheckSpec(
                name, asset=asset_key(declared.name), blocking=True, description=check.__doc__
            )
            for name, check in declared.checks.items()
        ],
    )
    # Dagster reads this annotation, and only understands it without a type argument.
    def compute(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
        tag_run(context.instance, context.run)
        try:
            with fixed_numerics():
                return _materialize(declared, context)
        except Exception as error:
            cut_secrets(error)  # Dagster keeps and shows an error with all its causes
            tells_secret = masked(str(error)) != str(error)
            raise _failure(declared, context, error) from (None if tells_secret else error)

    return compute


def _failure(
    declared: StudyAsset, context: dg.AssetExecutionContext, error: Exception
) -> dg.Failure:
    """The error as Dagster shows it and the command line prints it: one line that names the asset
    and what in it the error is about. Dagster's log has the traceback."""
    place = f" [{context.partition_key}]" if declared.partitioned else ""
    about = [f"{declared.name}{place}", *subjects(error)]
    root = Workspace.find().root
    return dg.Failure(
        masked(f"{', '.join(about)}: {in_words(error, root, context.run_id)}"),
        metadata={"on the machine's part": of_environment(error) is not None},
        allow_retries=False,
    )


def _code_version(declared: StudyAsset, workspace: Workspace, known: dict[str, str]) -> str:
    """The asset's version with a digest of its settings and of what is upstream of it.

    Dagster compares code versions, not configuration, and only an asset's own: with all of it in
    one string, a change of params.yaml shows exactly the dependent assets as stale, at once.
    `known` holds the versions that were computed before.
    """
    if declared.name in known:
        return known[declared.name]
    own = {
        ".".join(path): v.model_dump(mode="json") if hasattr(v, "model_dump") else v
        for path, v in nested(workspace.settings, declared.settings)
    }
    upstream = [
        _code_version(STUDY_ASSETS[name], workspace, known)
        for name in (*declared.inputs, *declared.gathers)
    ]
    digest = digest_of(canonical_json({"settings": own, "upstream": upstream}))
    known[declared.name] = f"{declared.version}+{digest[:8]}"
    return known[declared.name]


def _materialize(
    declared: StudyAsset, context: dg.AssetExecutionContext
) -> dg.MaterializeResult[Any]:
    overrides = _flat(context.op_execution_context.op_config or {})
    workspace = Workspace(Workspace.find().root, overrides=overrides)
    partition = _partition(context, workspace) if declared.partitioned else None
    heads = declared.heads(workspace.store, partition)
    digests = {name: ref.digest for name, ref in heads.items()}
    recipe = declared.recipe(workspace.settings, digests, partition, workspace)
    start = time.monotonic()
    progress = Progress(declared.name, context.log.info)
    job = Job(
        asset=declared,
        workspace=workspace,
        settings=settings_view(workspace.settings, declared.settings, partition),
        inputs={name: workspace.store.artifact(digest) for name, digest in digests.items()},
        recipe=recipe,
        partition=partition,
        run_id=context.run_id,
        progress=progress.update,
    )
    made = workspace.store.materialize(
        recipe,
        lambda out: declared.produce(job, out),
        run_id=context.run_id,
        device=workspace.settings.model.device,
        head=False,
        spent_s=lambda: job.spent_s,
    )
    verdicts = {name: check(job, made.artifact) for name, check in declared.checks.items()}
    if all(verdict.passed or not verdict.severe for verdict in verdicts.values()):
        workspace.store.set_head(made.ref)
        if declared.finish is not None:
            declared.finish(job, made.artifact)
    progress.done(cached=made.cached)
    context.log.info(f"{declared.name}: {'cache hit' if made.cached else 'computed'}")
    return _result(declared, made, verdicts, time.monotonic() - start)


def _result(
    declared: StudyAsset, made: Materialized, verdicts: Mapping[str, Verdict], seconds: float
) -> dg.MaterializeResult[Any]:
    return dg.MaterializeResult(
        data_version=dg.DataVersion(made.artifact.digest),
        metadata={
            "cached": made.cached,
            "seconds": round(seconds, 2),
            **metadata(declared, made.ref, made.artifact),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=name,
                asset_key=asset_key(declared.name),
                passed=verdict.passed,
                severity=(
                    dg.AssetCheckSeverity.ERROR if verdict.severe else dg.AssetCheckSeverity.WARN
                ),
                metadata={"detail": verdict.detail},
            )
            for name, verdict in verdicts.items()
        ],
    )


def _partition(context: dg.AssetExecutionContext, workspace: Workspace) -> Partition:
    key = context.partition_key
    assert isinstance(key, dg.MultiPartitionKey)
    dimensions = key.keys_by_dimension
    return Partition(dimensions["cohort"], stored_spec(workspace.store, dimensions["method"]))


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, path + ".")
        else:
            flat[path] = value
    return flat
