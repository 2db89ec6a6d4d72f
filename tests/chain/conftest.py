"""A whole study, small, run by the real command line in processes of its own."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from s3_server import S3Server

from warehouse.build import query

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RATE = 4000
"""Of the tones of `own_study`, Hz."""
QUERIES = """fidelity: 2
queries:
- {prompt: "A calm chorale in G major for string quartet, by J. S. Bach", seed: 1}
- {prompt: "A lively jig for solo flute", seed: 2, seconds: 2.0}
"""


@dataclass(frozen=True)
class Study:
    """A workspace and the commands a user would type in it."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user's shell: nothing of this test process leaks in."""
        kept = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "TDA_WORKSPACE")}
        activated = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return kept | {"COLUMNS": "200", "OMP_NUM_THREADS": "2", "PATH": activated}

    def command(self, *words: str) -> list[str]:
        return [str(Path(sys.executable).with_name(words[0])), *words[1:]]

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words),
            cwd=self.root,
            env=self.environment | self._home(words[0]),
            capture_output=True,
            text=True,
            timeout=600,
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(words)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    def _home(self, program: str) -> dict[str, str]:
        """`tda` finds its Dagster home by itself, Dagster's own commands are told."""
        return {} if program == "tda" else {"DAGSTER_HOME": str(self.root / "data" / "dagster")}

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(*words),
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def digests(self) -> dict[str, dict[str, str]]:
        """Group → asset → digest, as `tda run` wrote them."""
        files = sorted((self.root / "data" / "digests").glob("*.json"))
        return {file.stem: json.loads(file.read_text()) for file in files}

    def refs(self, asset: str) -> dict[str, dict[str, object]]:
        """The refs of an asset in the store by path."""
        folder = self.root / "data" / "store" / "refs" / asset
        return {
            str(p.relative_to(folder)): json.loads(p.read_text()) for p in folder.rglob("*.json")
        }


@dataclass(frozen=True)
class RemoteStudy(Study):
    """A study whose commands find the server as a user's would: by the AWS variables."""

    server: S3Server

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self.server.environment()


def stale_in_dagster(study: Study) -> set[str]:
    """The assets that Dagster calls stale."""
    return set(study.run("python", str(HERE / "stale_assets.py")).stdout.split())


def stale_in_warehouse(study: Study) -> set[str]:
    """The assets that the warehouse called stale when it was built."""
    database = study.root / "warehouse" / "attribution.duckdb"
    return set(query(database, "SELECT DISTINCT asset FROM v_stale_artifact")["asset"])


def new_study(root: Path) -> Study:
    (root / "cohorts").mkdir(parents=True)
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    _merge(settings, yaml.safe_load((HERE / "params.yaml").read_text(encoding="utf-8")))
    (root / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (root / "cohorts" / "reference.yaml").write_text(QUERIES)
    return Study(root)


def own_study(root: Path, pipeline: Path, titles: str = "a title") -> Study:
    """A study of ten tones of a manifest, under a pipeline of one's own."""
    study = new_study(root)
    music = root / "music"
    music.mkdir()
    lines = ["audio,caption,title,rightsholder,tempo_bpm"]
    for number in range(10):
        write_tone(music / f"tone{number}.wav", number)
        lines.append(f"tone{number}.wav,a tone,{titles},label {number % 3},90")
    (music / "manifest.csv").write_text("\n".join(lines) + "\n")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["dataset"] = {
        "manifest": "music/manifest.csv",
        "min_seconds": 0.05,
        "max_reject_fraction": 0.2,
        "heldout_fraction": 0.2,
    }
    params["model"] = {"pipeline": str(pipeline)}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / "cohorts" / "reference.yaml").write_text(
        'queries: [{prompt: "a fast violin dance"}, {prompt: "a slow organ prelude", seed: 2}]\n'
    )
    return study


def write_tone(path: Path, number: int) -> None:
    """A sine that is longer and higher the larger its number."""
    time = np.arange(int(RATE * (0.3 + 0.05 * number))) / RATE
    soundfile.write(path, 0.3 * np.sin(2 * math.pi * (60 + 30 * number) * time), RATE)


def _merge(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict):
            _merge(settings[key], value)
        else:
            settings[key] = value


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that has been run once; tests may read it and run it again, not change it."""
    made = new_study(tmp_path_factory.mktemp("study") / "first")
    made.run("tda", "run")
    return made


@pytest.fixture
def copy(study: Study, tmp_path: Path) -> Study:
    """A copy of the study that a test may change."""
    shutil.copytree(study.root, tmp_path / "copy")
    return Study(tmp_path / "copy")
