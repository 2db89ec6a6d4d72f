"""The main job with its store in a bucket, and a second folder that shares nothing else."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from chain.conftest import Study, new_study
from s3_server import BUCKET, S3Server, s3_server  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class RemoteStudy(Study):
    """A study whose commands find the server as a user's would: by the AWS variables."""

    server: S3Server

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self.server.environment()


def remote_study(root: Path, server: S3Server) -> RemoteStudy:
    made = new_study(root)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["store"]["root"] = f"s3://{BUCKET}/study"
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return RemoteStudy(made.root, server)


def test_two_folders_that_share_only_a_bucket(
    s3_server: S3Server,  # noqa: F811
    tmp_path: Path,
) -> None:
    first = remote_study(tmp_path / "first", s3_server)
    first.run("tda", "run")
    second = remote_study(tmp_path / "second", s3_server)
    said = second.run("tda", "run").stdout
    finished = [line for line in said.splitlines() if "✓" in line]
    assert finished
    assert all("cached" in line for line in finished)
    assert second.digests() == first.digests()
    assert (second.root / "warehouse" / "attribution.duckdb").is_file()
    assert not (second.root / "data" / "store").exists()
    second.run("tda", "snapshot", "add", "now")
    assert "now" in first.run("tda", "snapshot", "list").stdout
    first.run("tda", "verify")
    secret = s3_server.environment()["AWS_SECRET_ACCESS_KEY"]
    assert secret not in said
