"""What the README says can be typed, typed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chain.conftest import Study

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_the_python_example_runs_as_printed(copy: Study) -> None:
    copy.run("tda", "export", "data/example")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (copy.root / "example.py").write_text(example, encoding="utf-8")
    said = copy.run("python", "example.py").stdout
    assert "score_se" in said


def test_dvc_runs_the_stages_once(copy: Study) -> None:
    (copy.root / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        command = words if words[0] == "git" else copy.command(*words)
        subprocess.run(command, cwd=copy.root, check=True, env=copy.environment)
    before = copy.digests()
    copy.run("dvc", "repro")
    assert copy.digests() == before
    again = copy.run("dvc", "repro")
    assert "Data and pipelines are up to date" in again.stdout + again.stderr


def test_the_wheel_works_outside_the_repository(tmp_path: Path) -> None:
    def run(
        *words: str, env: dict[str, str] | None = None, cwd: Path = tmp_path
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=env, cwd=cwd)

    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    environment = {k: v for k, v in os.environ.items() if k != "TDA_WORKSPACE"}
    environment |= {"PYTHONPATH": str(site), "DAGSTER_HOME": str(tmp_path)}
    study = tmp_path / "study"
    run("-m", "tda_dagster.cli", "init", str(study), env=environment)
    where = run("-c", "import warehouse; print(warehouse.__file__)", env=environment, cwd=study)
    assert where.stdout.startswith(str(site))
    said = run("-m", "tda_dagster.cli", "partitions", env=environment, cwd=study)
    assert "reference" in said.stdout
    said = run("-m", "tda_dagster.cli", "sql", "--examples", env=environment, cwd=study)
    assert "top_tracks" in said.stdout
    tiny = "from tda_dagster.diffusion.autoencoder import shipped_weights_digest as d; print(d())"
    assert len(run("-c", tiny, env=environment, cwd=study).stdout.strip()) == 64
