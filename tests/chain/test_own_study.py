"""Somebody else's music and model: a manifest of audio files, a pipeline with an Oobleck."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from chain.conftest import RATE, Study, own_study, stale_in_dagster, stale_in_warehouse

from warehouse.build import query

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert('title')</script>"


@pytest.fixture
def own(tmp_path: Path, oobleck_folder: Path) -> Study:
    """A workspace with a manifest of ten good rows and two bad ones, and a tiny stereo model."""
    study = own_study(tmp_path / "own", oobleck_folder, titles=HOSTILE)
    manifest = study.root / "music" / "manifest.csv"
    bad = "missing.wav,a tone,gone,label 1,90\ntone1.wav,a tone,again,label 1,fast\n"
    manifest.write_text(manifest.read_text() + bad)
    (study.root / "cohorts" / "reference.yaml").write_text(
        'queries: [{prompt: "a fast violin dance"}, {audio: music/tone3.wav, caption: a tone}]\n'
    )
    return study


def test_the_whole_chain_on_a_manifest_and_a_pipeline(own: Study) -> None:
    own.run("tda", "run")
    database = own.root / "warehouse" / "attribution.duckdb"
    tracks = query(database, "select count(*) n, count(distinct rightsholder) r from dim_track")
    assert tracks.row(0) == (10, 3)
    sums = query(database, "select sum(share) s from v_piece_rightsholder_share group by piece_id")
    assert sums["s"].to_list() == pytest.approx([1.0, 1.0])
    # The recording of 0.45 s is longer than the model's window of 0.128 s.
    windows = query(database, "select windows from v_piece_summary order by query_index")
    assert windows["windows"].to_list() == [1, 4]
    page = (own.root / "data" / "report" / "reference.html").read_text(encoding="utf-8")
    assert HOSTILE not in page
    # An audio file that changes makes its dependents stale and then anew, and nothing else.
    assert stale_in_dagster(own) == set()
    time = np.arange(RATE) / RATE
    soundfile.write(own.root / "music" / "tone3.wav", 0.3 * np.sin(2 * math.pi * 99 * time), RATE)
    own.run("tda", "materialize", "warehouse")
    stale = stale_in_dagster(own)
    assert stale == stale_in_warehouse(own)
    assert stale > {"dataset/manifest", "dataset/latents", "attribution/scores"}
    assert "base/autoencoder" not in stale
    said = own.run("tda", "run").stdout
    lines = {line.split()[1]: line for line in said.splitlines() if "✓" in line}
    assert "cached" in lines["base/autoencoder"]
    assert "cached" not in lines["dataset/index"]


def test_too_many_bad_rows_stop_the_run_and_are_shown(own: Study) -> None:
    params = yaml.safe_load((own.root / "params.yaml").read_text())
    params["dataset"]["max_reject_fraction"] = 0.05
    (own.root / "params.yaml").write_text(yaml.safe_dump(params))
    told = own.run("tda", "run", check=False)
    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    assert "fast" in told.stderr or "missing.wav" in told.stderr
