"""The warehouse's tables in one state of a study, and a database built from them.

What belongs here: the tables as the `warehouse/duckdb` artifact of that state holds them, and the
tables of lineage, which follow from its refs.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tda_dagster.history import HistoryError
from tda_dagster.store import Ref, canonical_json
from tda_dagster.store.collection import SHARD
from tda_dagster.store.snapshots import StoreView
from warehouse.build import BuildReport, build
from warehouse.tables import BY_NAME, WarehouseError, validate, with_windows

WAREHOUSE = "warehouse/duckdb"
SCORE_TABLES = (
    "dim_track",
    "dim_segment",
    "dim_query",
    "dim_method",
    "fct_score",
    "share_rule",
    "method_support",
)
"""The tables that scores and shares follow from."""


def warehouse_ref(view: StoreView, name: str) -> Ref:
    """The ref of the warehouse in a state called `name`. Raises `HistoryError` if it has none."""
    ref = view.head(WAREHOUSE)
    if ref is None:
        raise HistoryError(
            f"{name}: no warehouse has been materialised in it; run `tda materialize warehouse` "
            "(and take snapshots after that)"
        )
    return ref


def content_tables(
    view: StoreView, name: str, wanted: Collection[str] = BY_NAME
) -> dict[str, pl.DataFrame]:
    """The content of the warehouse in a state called `name`: those of the `wanted` tables that it
    has."""
    artifact = view.artifact(warehouse_ref(view, name).digest)
    tables = {
        table: pl.read_parquet(artifact.path(f"{table}.parquet"))
        for table in BY_NAME
        if table in wanted and artifact.has(f"{table}.parquet")
    }
    if "dim_query" in tables:
        tables["dim_query"] = with_windows(tables["dim_query"])
    return tables


def lineage_tables(view: StoreView) -> dict[str, pl.DataFrame]:
    """`dim_artifact` and `lineage_edge` of all refs of the view but shards, which are resume
    caches and nobody's input. Of several refs that made an input, a live one is named, then the
    oldest."""
    refs = [ref for ref in view.refs() if not ref.recipe.asset.endswith(SHARD)]
    live = {ref.recipe.key for ref in view.heads()}
    made_by: dict[str, Ref] = {}
    for ref in sorted(refs, key=lambda r: (r.recipe.key not in live, r.created_at)):
        made_by.setdefault(ref.digest, ref)
    edges = [
        {
            "recipe_key": ref.recipe.key,
            "input_name": name,
            "input_digest": digest,
            "input_recipe_key": made_by[digest].recipe.key if digest in made_by else None,
        }
        for ref in refs
        for name, digest in sorted(ref.recipe.inputs.items())
    ]
    artifacts = [_artifact_row(ref, is_live=ref.recipe.key in live) for ref in refs]
    return {
        "dim_artifact": pl.DataFrame(artifacts, schema=BY_NAME["dim_artifact"].schema),
        "lineage_edge": pl.DataFrame(edges, schema=BY_NAME["lineage_edge"].schema),
    }


@dataclass(frozen=True)
class Rebuilt:
    """A warehouse built from the past. `left_out` says of tables, which are empty for that, why
    their rows of that time do not fit the present definitions."""

    report: BuildReport
    left_out: dict[str, str]


def build_database(view: StoreView, name: str, path: Path) -> Rebuilt:
    """Build the warehouse of a state called `name` at `path`.

    What the settings of that time asked for is not known, so nothing in it is stale for its
    settings (`dim_asset_state` is empty). Raises `HistoryError` if the tables that scores and
    shares need do not fit the present definitions.
    """
    tables, left_out = {}, {}
    for table, frame in content_tables(view, name).items():
        try:
            tables[table] = validate(table, frame)
        except WarehouseError as error:
            if table in SCORE_TABLES:
                raise HistoryError(
                    f"{name}: the tables of that time do not fit the present warehouse: {error}. "
                    "Build it with the version of tda-dagster that made them"
                ) from error
            left_out[table] = str(error)
    return Rebuilt(build(path, tables | lineage_tables(view)), left_out)


def _artifact_row(ref: Ref, *, is_live: bool) -> dict[str, object]:
    config = canonical_json(ref.recipe.config)
    return {
        "recipe_key": ref.recipe.key,
        "artifact_digest": ref.digest,
        "asset": ref.recipe.asset,
        "partition": ref.recipe.partition,
        "code_version": ref.recipe.code_version,
        "config": config.decode(),
        "config_digest": hashlib.sha256(config).hexdigest(),
        "size_bytes": ref.size_bytes,
        "seconds": ref.seconds,
        "device": ref.device,
        "run_id": ref.run_id,
        "created_at": ref.created_at,
        "is_live": is_live,
    }
