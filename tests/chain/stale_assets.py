"""Print the assets that Dagster calls stale in the present workspace, one a line.

A script, not a test: definitions read the workspace when they are imported.
"""

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from tda_dagster.definitions import defs
from tda_dagster.partitions import main_partitions
from tda_dagster.workspace import Workspace


def main() -> None:
    with dg.DagsterInstance.get() as instance:
        (partition,) = main_partitions(Workspace.find(), "reference")
        graph = defs.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        for key in sorted(defs.resolve_all_asset_keys(), key=lambda k: k.path):
            place = partition.key if graph.get(key).is_partitioned else None
            if resolver.get_status(key, place) == StaleStatus.STALE:
                print("/".join(key.path))


if __name__ == "__main__":
    main()
