"""Somebody else's music and model: a manifest of audio files, a pipeline with an Oobleck."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from chain.conftest import Study, new_study

from warehouse.build import query

pytestmark = pytest.mark.slow

RATE = 4000
HOSTILE = "<script>alert('title')</script>"


@pytest.fixture
def own(tmp_path: Path, oobleck_folder: Path) -> Study:
    """A workspace with a manifest of ten good rows and two bad ones, and a tiny stereo model."""
    study = new_study(tmp_path / "own")
    music = study.root / "music"
    music.mkdir()
    lines = ["audio,caption,title,rightsholder,tempo_bpm"]
    for number in range(10):
        time = np.arange(int(RATE * (0.3 + 0.05 * number))) / RATE
        tone = 0.3 * np.sin(2 * math.pi * (60 + 30 * number) * time)
        soundfile.write(music / f"tone{number}.wav", tone, RATE)
        lines.append(f"tone{number}.wav,a tone,{HOSTILE},label {number % 3},90")
    lines += ["missing.wav,a tone,gone,label 1,90", "tone1.wav,a tone,again,label 1,fast"]
    (music / "manifest.csv").write_text("\n".join(lines) + "\n")
    params = yaml.safe_load((study.root / "params.yaml").read_text())
    params["dataset"] = {
        "manifest": "music/manifest.csv",
        "min_seconds": 0.05,
        "max_reject_fraction": 0.2,
        "heldout_fraction": 0.2,
    }
    params["model"] = {"pipeline": str(oobleck_folder)}
    (study.root / "params.yaml").write_text(yaml.safe_dump(params))
    (study.root / "cohorts" / "reference.yaml").write_text(
        'queries: [{prompt: "a fast violin dance"}, {audio: music/tone3.wav, caption: a tone}]\n'
    )
    return study


def test_the_whole_chain_on_a_manifest_and_a_pipeline(own: Study) -> None:
    own.run("tda", "run")
    database = own.root / "warehouse" / "attribution.duckdb"
    tracks = query(database, "select count(*) n, count(distinct rightsholder) r from dim_track")
    assert tracks.row(0) == (10, 3)
    assert query(database, "select sum(share) s from v_rightsholder_share group by query_id")[
        "s"
    ].to_list() == pytest.approx([1.0, 1.0])
    page = (own.root / "data" / "report" / "reference.html").read_text(encoding="utf-8")
    assert HOSTILE not in page
    # An audio file that changes makes its dependents anew, and nothing else.
    time = np.arange(RATE) / RATE
    soundfile.write(own.root / "music" / "tone3.wav", 0.3 * np.sin(2 * math.pi * 99 * time), RATE)
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
