"""The error for too many bad rows: all of them are counted, some shown, the rest in a file."""

from pathlib import Path

import polars as pl
import pytest

from tda_dagster.corpus import Reject, RejectReason, TooManyRejects
from tda_dagster.corpus.rejects import rejects_listed

MANY = [
    Reject(line, reason, f"{line}.wav: it is so", f"t{line}", f"{line}.wav")
    for line in range(100, 0, -1)
    for reason in [RejectReason.SILENT if line % 10 else RejectReason.MISSING_FILE]
]


def test_the_message_has_the_counts_and_some_rows_for_each_reason() -> None:
    told = str(TooManyRejects("m.csv", MANY, 400, 0.05))
    assert told.startswith("m.csv: 100 of 400 rows were rejected, more than max_reject_fraction =")
    assert "(missing_file: 10, silent: 90)" in told
    for line in (
        "line 1: silent: 1.wav",
        "line 5: silent",
        "line 10: missing_file",
        "line 50: mis",
    ):
        assert line in told
    assert "and 85 more: silent" in told
    assert "and 5 more: missing_file" in told
    assert len(told.splitlines()) == 14


def test_all_rejects_are_written_to_a_file_that_the_message_names(tmp_path: Path) -> None:
    path = tmp_path / "data" / "rejects.csv"
    told = pytest.raises(TooManyRejects, match=f"listed in {path}")
    with told as caught, rejects_listed(path):
        raise TooManyRejects("m.csv", MANY, 400, 0.05)
    assert len(caught.value.rejects) == 100
    found = pl.read_csv(path)
    assert found["line"].to_list() == list(range(1, 101))
    assert found.columns == ["line", "track_id", "audio", "reason", "detail"]
    with rejects_listed(path):
        pass
    assert not path.exists()  # it would be of another manifest


def test_a_list_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    told = pytest.raises(TooManyRejects, match="100 of 400 rows")
    with told, rejects_listed(tmp_path / "data" / "rejects.csv"):
        raise TooManyRejects("m.csv", MANY, 400, 0.05)
