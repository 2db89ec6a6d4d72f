"""A manifest's other columns in the warehouse."""

import json
from pathlib import Path

import polars as pl
import pytest

from warehouse.build import build, query
from warehouse.tables import WarehouseError, validate


def test_they_can_be_queried_by_name(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    tracks = tables["dim_track"]
    texts = ["plain", 'a "quote"', "Ü 🎵", "line\nbreak", "", *["x"] * (tracks.height - 5)]
    extra = [json.dumps({"label": text, "shelf no": "7"} if text else {}) for text in texts]
    tables["dim_track"] = tracks.with_columns(extra=pl.Series(extra))
    build(tmp_path / "w.duckdb", tables)
    found = query(
        tmp_path / "w.duckdb",
        "select extra ->> 'label' as label, extra ->> '$.\"shelf no\"' as shelf from dim_track "
        "order by track_id",
    )
    assert found["label"].to_list() == [text or None for text in texts]
    assert found["shelf"].to_list() == ["7" if text else None for text in texts]


def test_tables_of_earlier_versions_have_none(
    tmp_path: Path, tables: dict[str, pl.DataFrame]
) -> None:
    assert "extra" not in tables["dim_track"].columns
    build(tmp_path / "w.duckdb", tables)
    assert query(tmp_path / "w.duckdb", "select count(extra) n from dim_track")["n"].item() == 0
    with pytest.raises(WarehouseError, match=r"dim_track: column title is missing"):
        validate("dim_track", tables["dim_track"].drop("title"))
