"""Left-out tracks by their number, against counting."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tda_dagster.evaluation.metrics import EVALUATION_SCHEMA, row
from warehouse.build import build, query

RISES = {("m1", 1): [0.1, 0.2, 0.4], ("m1", 8): [0.3, 0.5], ("m2", 8): [0.0, -0.1, 0.1]}


def figures() -> list[dict[str, object]]:
    made = []
    for (method, tracks), rises in RISES.items():
        size = "1 track" if tracks == 1 else f"{tracks} tracks"
        for i, rise in enumerate(rises):
            for metric, value, detail in (
                ("relative_loss_rise", rise, size),
                ("regenerated_similarity", 1 - rise, f"timbre, {size}"),
                ("regenerated_similarity", 1 - rise / 2, f"melody, {size}"),
            ):
                made.append(row("removal", f"c-{i:03d}", metric, value, method_id=method,
                                detail=detail))  # fmt: skip
    # Of an earlier version, which said no number.
    made.append(row("removal", "c-000", "relative_loss_rise", 7.0, method_id="m2"))
    made.append(
        row("removal", "c-000", "regenerated_similarity", 0.5, method_id="m2", detail="timbre")
    )
    made += [row("datamodel", "c", "lds", 0.1, method_id=method) for method in ("m1", "m2")]
    return made


def test_numbers_of_tracks_are_told_apart_and_the_bench_has_the_largest(
    tables: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    tables["fct_evaluation"] = pl.DataFrame(figures(), schema=EVALUATION_SCHEMA)
    build(tmp_path / "w.duckdb", tables)
    rows = query(tmp_path / "w.duckdb", "SELECT * FROM v_removal")
    found = {(r["method_id"], r["removed_tracks"]): r for r in rows.iter_rows(named=True)}
    assert found.keys() == {*RISES, ("m2", None)}
    for key, rises in RISES.items():
        assert found[key]["cohort"] == "c"
        assert found[key]["queries"] == len(rises)
        assert found[key]["rise"] == pytest.approx(np.mean(rises))
        assert found[key]["rise_se"] == pytest.approx(np.std(rises, ddof=1) / len(rises) ** 0.5)
        assert found[key]["similar_timbre"] == pytest.approx(1 - np.mean(rises))
        assert found[key]["similar_melody"] == pytest.approx(1 - np.mean(rises) / 2)
    assert found["m2", None]["rise"] == 7
    assert found["m2", None]["similar_timbre"] == 0.5
    bench = query(tmp_path / "w.duckdb", "SELECT method_id, rise, similar_melody FROM v_bench")
    for method, rise, similar in bench.rows():
        assert rise == pytest.approx(np.mean(RISES[method, 8]))
        assert similar == pytest.approx(1 - np.mean(RISES[method, 8]) / 2)
    assert sorted(bench["method_id"]) == ["m1", "m2"]
