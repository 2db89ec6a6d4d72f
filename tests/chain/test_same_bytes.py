"""The same inputs, settings and seed give the same bytes, however the work was done."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from chain.conftest import Study, new_study

pytestmark = pytest.mark.slow


def study_with_workers(root: Path, workers: int) -> Study:
    made = new_study(root)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["compute"] = {"workers": workers}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return made


def heads(study: Study) -> set[str]:
    """The live artifacts, without those of shards and method specs."""
    folder = study.root / "data" / "store" / "heads"
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_on_one_core_with_one_worker(study: Study, tmp_path: Path) -> None:
    alone = study_with_workers(tmp_path / "alone", 1)
    subprocess.run(
        alone.command("tda", "run"),
        cwd=alone.root,
        env=alone.environment | {"OMP_NUM_THREADS": "4"},
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        check=True,
        capture_output=True,
        timeout=600,
    )
    assert alone.digests() == study.digests()


def test_killed_after_every_third_asset_with_three_workers(study: Study, tmp_path: Path) -> None:
    killed = study_with_workers(tmp_path / "killed", 3)
    kills = 0
    while True:
        before = heads(killed)
        process = killed.start("tda", "run")
        while process.poll() is None and len(heads(killed) - before) < 3:
            time.sleep(0.02)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.returncode == 0
    assert kills >= 5, "killed too late to test anything"
    assert killed.digests() == study.digests()
