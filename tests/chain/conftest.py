"""A whole study, small, run by the real command line in processes of its own."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
QUERIES = """queries:
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


def new_study(root: Path) -> Study:
    (root / "cohorts").mkdir(parents=True)
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    _merge(settings, yaml.safe_load((HERE / "params.yaml").read_text(encoding="utf-8")))
    (root / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (root / "cohorts" / "reference.yaml").write_text(QUERIES)
    return Study(root)


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
