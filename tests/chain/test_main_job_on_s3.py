"""The main job under DVC with its store in a bucket, and a clone that shares nothing else."""

import subprocess
from pathlib import Path

import pytest
import yaml
from chain.conftest import ROOT, RemoteStudy, new_study
from s3_server import BUCKET, S3Server, s3_server  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow


@pytest.fixture
def first(
    s3_server: S3Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> RemoteStudy:
    """A repository whose store and DVC remote are in a bucket; nothing has been run."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tests")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tests@example.org")
    study = RemoteStudy(new_study(tmp_path / "first").root, s3_server)
    params = yaml.safe_load((study.root / "params.yaml").read_text())
    params["store"]["root"] = f"s3://{BUCKET}/study"
    (study.root / "params.yaml").write_text(yaml.safe_dump(params))
    (study.root / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    (study.root / ".gitignore").write_text("/data/\n/warehouse/*.duckdb*\n")
    git(study, "init", "-q")
    study.run("dvc", "init", "-q")
    study.run("dvc", "remote", "add", "-d", "bucket", f"s3://{BUCKET}/dvc")
    return study


def git(study: RemoteStudy, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=study.root, check=True, capture_output=True, text=True
    )
    return done.stdout


def computed(study: RemoteStudy) -> set[str]:
    """The refs in the bucket: one for everything that was ever computed."""
    return set(study.server.filesystem().find(f"{BUCKET}/study/refs"))


def test_a_clone_that_shares_only_a_bucket_computes_nothing(
    first: RemoteStudy, tmp_path: Path
) -> None:
    said = first.run("dvc", "repro").stdout
    git(first, "add", "-A")
    git(first, "commit", "-q", "-m", "first")
    first.run("dvc", "push")
    everything = computed(first)

    git(first, "clone", "-q", str(first.root), str(tmp_path / "second"))
    second = RemoteStudy(tmp_path / "second", first.server)
    assert not (second.root / "data").exists()
    second.run("dvc", "pull")
    for file in ("metrics.json", "plots/tracks.csv", "plots/training.csv"):
        assert (second.root / "data" / file).read_bytes() == (
            first.root / "data" / file
        ).read_bytes()
    again = second.run("dvc", "repro").stdout
    finished = [line for line in again.splitlines() if "✓" in line]
    assert len(finished) == len([line for line in said.splitlines() if "✓" in line]) > 0
    assert all("cached" in line for line in finished)
    assert computed(second) == everything
    assert second.digests() == first.digests()
    assert git(second, "status", "--porcelain") == ""  # dvc.lock says what it said
    assert (second.root / "warehouse" / "attribution.duckdb").is_file()
    assert (second.root / "data" / "report" / "reference.html").is_file()
    assert not (second.root / "data" / "store").exists()

    second.run("tda", "snapshot", "add", "now")
    assert "now" in first.run("tda", "snapshot", "list").stdout
    first.run("tda", "verify")
    secret = first.server.environment()["AWS_SECRET_ACCESS_KEY"]
    assert secret not in said + again
    assert secret not in git(first, "show", "HEAD")
