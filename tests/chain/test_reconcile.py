"""A Dagster that has not seen what is live being made is told of it."""

from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml
from chain.conftest import Study

from tda_dagster.store import ArtifactStore

pytestmark = pytest.mark.slow

STALE_ASSETS = Path(__file__).with_name("stale_assets.py")


@dataclass(frozen=True)
class OtherDagster(Study):
    """The same study with a Dagster home of its own, as on another machine."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"DAGSTER_HOME": str(self.home)}

    def _home(self, program: str) -> dict[str, str]:
        return {"DAGSTER_HOME": str(self.home)}

    def known(self, asset: str) -> list[tuple[str | None, str]]:
        """The partition and data version of every event of an asset."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            records = instance.fetch_materializations(
                dg.AssetKey(asset.split("/")), limit=100
            ).records
        events = [record.asset_materialization for record in records]
        return [(e.partition, e.tags["dagster/data_version"]) for e in events if e and e.tags]


@pytest.fixture
def other(copy: Study, tmp_path: Path) -> OtherDagster:
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return OtherDagster(copy.root, home)


def live(study: Study) -> dict[str, str]:
    """Asset → digest of what is live, of one cohort under one method; specs are no assets."""
    heads = ArtifactStore(study.root / "data" / "store").heads()
    return {ref.recipe.asset: ref.digest for ref in heads if ref.recipe.asset != "method/spec"}


def test_an_empty_dagster_is_told_of_exactly_what_is_live(copy: Study, other: OtherDagster) -> None:
    assert "knows of everything" in copy.run("tda", "reconcile").stdout
    partition = copy.run("tda", "partitions").stdout.split()[0]
    reported = [line.split() for line in other.run("tda", "reconcile").stdout.splitlines()]
    assert len(reported) == len(live(copy))
    assert {words[1]: words[-1] for words in reported} == {
        asset: digest[:12] for asset, digest in live(copy).items()
    }
    for asset, digest in live(copy).items():
        ((key, version),) = other.known(asset)
        assert version == digest
        assert key in (None, partition)
    assert other.run("python", str(STALE_ASSETS)).stdout == ""
    assert "knows of everything" in other.run("tda", "reconcile").stdout


def test_what_is_stale_is_stale_in_every_dagster(copy: Study, other: OtherDagster) -> None:
    params = copy.root / "params.yaml"
    before = params.read_text()
    settings = yaml.safe_load(before)
    settings["fisher"]["draws"] = 2
    params.write_text(yaml.safe_dump(settings))
    other.run("tda", "reconcile")
    stale = other.run("python", str(STALE_ASSETS)).stdout
    assert stale == copy.run("python", str(STALE_ASSETS)).stdout != ""
    # With the settings that it was made with, what is live is as it should be.
    params.write_text(before)
    assert len(other.run("tda", "reconcile").stdout.splitlines()) == len(stale.split())
    assert other.run("python", str(STALE_ASSETS)).stdout == ""


def test_a_run_tells_of_more_than_itself(other: OtherDagster) -> None:
    other.run("tda", "materialize", "dataset/manifest")
    for asset, digest in live(other).items():
        assert other.known(asset)[0][1] == digest
