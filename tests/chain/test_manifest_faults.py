"""What the command line says of a manifest that cannot be, and what it makes of hostile ids."""

import csv
from pathlib import Path

import polars as pl
import pytest
import yaml
from chain.conftest import Study, own_study

from warehouse.build import query

pytestmark = pytest.mark.slow

HOSTILE_IDS = (
    "../../etc/passwd",
    "a|b",
    "\x1b[31mred\x1b[0m \x07",
    "line\nbreak\ttab",
    "[bold]x[/nothing]",
    "<script>alert(1)</script>",
    "'; DROP TABLE dim_track;--",
    "Ü 🎵 \u202e\u2028",
    "x" * 900,
    "%s {0} $HOME",
)


def manifest_of(study: Study, *rows: str, columns: str = "audio,caption,split") -> None:
    (study.root / "music" / "manifest.csv").write_text("\n".join([columns, *rows]) + "\n")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, oobleck_folder: Path) -> Study:
    return own_study(tmp_path_factory.mktemp("faults") / "own", oobleck_folder)


def refused(study: Study, *words: str) -> str:
    """What a command that must fail says, on one line."""
    done = study.run("tda", *words, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    assert not list((study.root / "data").rglob("refs/base/trajectory/*"))
    return " ".join(said.split())


def test_a_manifest_that_is_not_there_is_named_with_its_path(own: Study) -> None:
    before = (own.root / "params.yaml").read_text()
    params = yaml.safe_load(before)
    params["dataset"]["manifest"] = "nowhere.csv"
    (own.root / "params.yaml").write_text(yaml.safe_dump(params))
    said = refused(own, "run")
    (own.root / "params.yaml").write_text(before)
    assert f"The manifest {own.root}/nowhere.csv cannot be opened: there is no such file" in said
    assert "dataset.manifest" in said


def test_a_manifest_that_holds_everything_out_is_refused_at_once(own: Study) -> None:
    manifest_of(own, *(f"tone{number}.wav,a tone,heldout" for number in range(10)))
    said = refused(own, "run")
    assert "music/manifest.csv: no track is left to train on: by its column split, all of" in said
    assert "dataset/index" not in said


def test_all_bad_rows_are_listed_in_one_run(own: Study) -> None:
    manifest_of(own, *(f"gone{number}.wav,a tone," for number in range(9)), "tone1.wav,,")
    said = refused(own, "run")
    assert "10 of 10 rows were rejected" in said
    assert "missing_file: 9, missing_value: 1" in said
    listed = pl.read_csv(own.root / "data" / "rejects.csv")
    assert listed.height == 10
    assert set(listed["reason"]) == {"missing_file", "missing_value"}


def test_hostile_ids_and_other_columns_pass_through_the_whole_chain(own: Study) -> None:
    with (own.root / "music" / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["track_id", "audio", "caption", "shelf no"])
        for number, track_id in enumerate(HOSTILE_IDS):
            writer.writerow([track_id, f"tone{number}.wav", "a tone", f"{track_id} {number}"])
    own.run("tda", "run")
    assert not (own.root / "data" / "rejects.csv").exists()
    found = query(
        own.root / "warehouse" / "attribution.duckdb",
        "SELECT track_id, extra ->> 'shelf no' AS shelf, count(DISTINCT segment_id) AS n "
        "FROM dim_track JOIN dim_segment USING (track_id) JOIN fct_score USING (segment_id) "
        "WHERE dim_track.split = 'train' GROUP BY ALL",
    )
    assert 7 <= found.height <= 9
    for track_id, shelf, segments in found.iter_rows():
        assert shelf == f"{track_id} {HOSTILE_IDS.index(track_id)}"
        assert segments >= 1
    for words in (("takedown", "../../etc/passwd"), ("growth",), ("verify",)):
        assert "\x1b[31m" not in own.run("tda", *words).stdout
