"""Methods whose work does not depend on the cohort, from end to end: a second cohort finds it."""

import shutil
from collections import Counter

import polars as pl
import pytest
import yaml
from chain.conftest import Study

from tda_dagster.attribution.methods import method_specs
from tda_dagster.settings import load_settings
from tda_dagster.store import ArtifactStore

pytestmark = pytest.mark.slow


def ask_for_catalogues(study: Study, **settings: object) -> None:
    """Make catalogue unlearning the method of the main job."""
    path = study.root / "params.yaml"
    params = yaml.safe_load(path.read_text()) | {"methods": ["catalogue_unlearning"]}
    params["method_settings"]["catalogue_unlearning"] = {"unlearning": {"draws": 2}} | settings
    path.write_text(yaml.safe_dump(params))


@pytest.fixture
def attributed(copy: Study) -> Study:
    """A study attributed by catalogue unlearning."""
    ask_for_catalogues(copy)
    copy.run("tda", "materialize", "unlearned", "attribution")
    return copy


def work_done(study: Study) -> Counter[str]:
    """How many shards of scores there are by the first word of their names."""
    refs = ArtifactStore(str(study.root / "data" / "store")).refs()
    names = [r.recipe.partition for r in refs if r.recipe.asset == "attribution/scores/shard"]
    return Counter(name.split("|")[0] for name in names)


def _method_id(study: Study) -> str:
    (spec,) = method_specs(load_settings(study.root / "params.yaml"))
    return spec.method_id


def test_a_second_cohort_unlearns_and_sweeps_only_its_queries(attributed: Study) -> None:
    store = ArtifactStore(str(attributed.root / "data" / "store"))
    head = store.head("dataset/index")
    assert head is not None
    index = store.artifact(head.digest)
    segments = pl.read_parquet(index.path("segments.parquet")).filter(split="train")
    train = pl.read_parquet(index.path("tracks.parquet")).join(segments, on="track_id")
    groups = train["rightsholder"].n_unique()
    before = work_done(attributed)
    assert before["group"] == groups
    assert before["queries"] == groups + 1

    cohorts = attributed.root / "cohorts"
    shutil.copy(cohorts / "reference.yaml", cohorts / "again.yaml")
    changed = (cohorts / "again.yaml").read_text().replace("seed: 1}", "seed: 5}")
    (cohorts / "again.yaml").write_text(changed)
    attributed.run("tda", "materialize", "cohort", "unlearned", "attribution", "--cohort", "again")
    new = work_done(attributed) - before
    assert new == {"queries": groups + 1}

    head = store.head("attribution/scores", f"again|{_method_id(attributed)}")
    assert head is not None
    scores = pl.read_parquet(store.artifact(head.digest).path("scores.parquet"))
    owned = scores.join(train.select("segment_id", "rightsholder"), on="segment_id")
    effects = owned.group_by("query_id", "rightsholder").agg(pl.col("score").n_unique())
    assert effects.height > groups
    assert set(effects["score"]) == {1}

    attributed.run("tda", "gc", "--delete", "--grace-hours", "0")
    kept = work_done(attributed)
    assert kept["group"] == groups  # still to be asked for by the next cohort


def test_an_unknown_column_is_named_with_those_there_are(copy: Study) -> None:
    ask_for_catalogues(copy, group="owner")
    told = copy.run("tda", "materialize", "unlearned", "attribution", check=False)
    assert told.returncode == 1
    assert "group: 'owner' is not a column of the tracks" in told.stderr
    assert "rightsholder" in told.stderr
    assert "Traceback" not in told.stderr
