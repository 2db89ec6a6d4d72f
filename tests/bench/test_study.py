"""The bench's study as it is laid out."""

from pathlib import Path

from tda_dagster.bench import lay_out_study
from tda_dagster.evaluation.ground_truth import shipped
from tda_dagster.workspace import Workspace, piece_id


def test_its_queries_keep_the_draws_that_its_ground_truth_was_found_under(tmp_path: Path) -> None:
    lay_out_study(tmp_path)
    workspace = Workspace(tmp_path)
    assert {workspace.cohort(name).draws_by for name in workspace.cohorts()} == {"id"}
    truth = shipped("generated")
    assert truth is not None
    queries = workspace.cohort("generated").queries
    assert truth.queries.segment_ids == tuple(piece_id("generated", n) for n in range(len(queries)))
    assert truth.queries.draw_keys == ()
