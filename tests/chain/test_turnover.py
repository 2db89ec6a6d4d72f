"""Tracks that come and go under a model of one's own, with everything in a bucket: only what is
made from them is made again, and what is foretold is what happens."""

import re
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml
from chain.conftest import RemoteStudy, Study, own_study, write_tone
from s3_server import BUCKET, S3Server, s3_server  # noqa: F401  (a fixture)

from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.store import ArtifactStore
from warehouse.build import query

pytestmark = pytest.mark.slow

ROOT = f"s3://{BUCKET}/turnover"
SEGMENTS = 8
GONE = "tone2"


@pytest.fixture
def remote(
    s3_server: S3Server,  # noqa: F811
    tmp_path: Path,
    oobleck_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> RemoteStudy:
    """Store, manifest, audio and pipeline are in a bucket; the folder has settings and a cohort."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    made = own_study(tmp_path / "own", oobleck_folder)
    files = s3_server.filesystem()
    files.put(str(made.root / "music"), f"{ROOT}/music", recursive=True)
    files.put(str(oobleck_folder), f"{ROOT}/pipeline", recursive=True)
    shutil.rmtree(made.root / "music")
    study = RemoteStudy(made.root, s3_server)
    change(study, "store", root=f"{ROOT}/store")
    change(study, "dataset", manifest=f"{ROOT}/music/manifest.csv", heldout_fraction=0.0)
    change(study, "dataset", shard_segments=SEGMENTS)
    change(study, "model", pipeline=f"{ROOT}/pipeline")
    return study


def change(study: RemoteStudy, section: str, **values: object) -> None:
    path = study.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params[section] |= values
    path.write_text(yaml.safe_dump(params, sort_keys=False))


class Seen:
    """What is live, and what has been computed, at one moment."""

    def __init__(self, study: RemoteStudy, cache: Path) -> None:
        store = ArtifactStore(f"{ROOT}/store", cache_dir=cache)
        heads = {ref.recipe.asset: ref for ref in store.heads()}
        self.digests = {name: ref.digest for name, ref in heads.items()}
        self.computed = {ref.recipe.key: ref.recipe.asset for ref in store.refs()}
        latents = store.artifact(heads["dataset/latents"].digest)
        self.shards = {
            name: (latents.files[name].digest, LatentSegments.load(latents.path(name)).segment_ids)
            for name in latents.entries
        }
        scores = store.artifact(heads["attribution/scores"].digest).path("scores.parquet")
        self.scores = {
            (query, segment): score
            for query, segment, score in pl.read_parquet(scores)
            .select("query_id", "segment_id", "score")
            .iter_rows()
        }

    def since(self, before: "Seen", asset: str) -> int:
        """How many shards of an asset were computed since."""
        new = self.computed.keys() - before.computed.keys()
        return sum(self.computed[key] == f"{asset}/shard" for key in new)

    def new_shards(self, before: "Seen") -> list[tuple[str, ...]]:
        """The segments of the shards of latents that were not there before."""
        there = {digest for digest, _ in before.shards.values()}
        return [segments for digest, segments in self.shards.values() if digest not in there]


def foretold(said: str) -> tuple[int, dict[str, str]]:
    """The number of new shards, and asset → what becomes of it."""
    count = re.search(r"(\d+) of \d+ shards are new", said)
    assert count is not None, said
    rows = re.findall(r"^ *(\w+/\w+) .*?(stays|partly new|new)(?: |$)", said, flags=re.MULTILINE)
    return int(count[1]), dict(rows)


def assert_only_new_shards_were_swept(before: Seen, after: Seen, said: str) -> None:
    count, becomes = foretold(said)
    new = after.new_shards(before)
    assert len(new) == count < len(after.shards)
    for asset in ("dataset/latents", "base/losses"):
        assert becomes[asset] == "partly new"
        assert after.since(before, asset) == count
    queries = len({query for query, _ in after.scores})
    assert becomes["unlearned/losses"] == "partly new"
    assert after.since(before, "unlearned/losses") == queries * count
    for asset, effect in becomes.items():
        if effect == "stays":
            assert after.digests[asset] == before.digests[asset], asset
            assert after.since(before, asset) == 0, asset
    assert {"base/checkpoint", "base/fisher", "unlearned/checkpoints", "cohort/queries"} <= {
        asset for asset, effect in becomes.items() if effect == "stays"
    }
    touched = {segment for segments in new for segment in segments}
    stayed = {key for key in before.scores.keys() & after.scores.keys() if key[1] not in touched}
    assert stayed
    assert {key: after.scores[key] for key in stayed} == {key: before.scores[key] for key in stayed}
    for key in before.scores.keys() & after.scores.keys() - stayed:  # swept in other company
        assert after.scores[key] == pytest.approx(before.scores[key], rel=1e-3, abs=1e-7)


def test_only_what_is_made_from_tracks_that_come_or_go_is_made_again(
    remote: RemoteStudy, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    remote.run("tda", "run")
    first = Seen(remote, cache)
    remote.run("tda", "snapshot", "add", "first")
    change(remote, "fisher", snapshot="first")

    # One comes.
    write_tone(tmp_path / "tone10.wav", 10)
    files = remote.server.filesystem()
    files.put(str(tmp_path / "tone10.wav"), f"{ROOT}/music/tone10.wav")
    manifest = files.cat_file(f"{ROOT}/music/manifest.csv") + b"tone10.wav,a tone,new,label 1,90\n"
    files.pipe_file(f"{ROOT}/music/manifest.csv", manifest)
    said = remote.run("tda", "growth").stdout
    assert re.search(r"come 1: tone10", said)
    remote.run("tda", "run")
    grown = Seen(remote, cache)
    assert_only_new_shards_were_swept(first, grown, said)
    queries = {query for query, _ in first.scores}
    new = {key for key in grown.scores if key[1].startswith("tone10:")}
    assert {query for query, _ in new} == queries
    assert grown.scores.keys() - first.scores.keys() == new

    # One goes.
    said = remote.run("tda", "takedown", GONE, "--apply").stdout
    assert re.search(rf"go 1: {GONE}", said)
    assert "in its weights" in said
    assert "snapshots keep what was made from them: first" in said
    remote.run("tda", "run")
    shrunk = Seen(remote, cache)
    assert_only_new_shards_were_swept(grown, shrunk, said)
    gone = grown.scores.keys() - shrunk.scores.keys()
    assert {segment.split(":")[0] for _, segment in gone} == {GONE}
    assert shrunk.scores.keys() <= grown.scores.keys()
    told = remote.run("tda", "takedown", GONE, check=False)
    assert f"'{GONE}' is no track of the dataset" in told.stderr
    change(remote, "fisher", draws=2)
    told = remote.run("tda", "materialize", "base/fisher", check=False)
    assert "fisher.draws: the Fisher information of the snapshot 'first'" in told.stderr


def test_a_model_that_is_trained_here_is_said_to_be_trained_again(study: Study) -> None:
    track = query(study.root / "warehouse" / "attribution.duckdb", "FROM dim_track LIMIT 1")
    before = (study.root / "params.yaml").read_bytes()
    said = study.run("tda", "takedown", track["track_id"][0]).stdout
    _, becomes = foretold(said)
    assert becomes["base/autoencoder"] == becomes["dataset/manifest"] == "stays"
    assert becomes["dataset/latents"] == "partly new"
    assert becomes["base/checkpoint"] == becomes["cohort/queries"] == "new"
    assert "the model is trained again" in said
    assert (study.root / "params.yaml").read_bytes() == before
    assert "the tracks are those of the live dataset" in study.run("tda", "growth").stdout
