"""Methods whose work does not depend on the cohort, from end to end: a second cohort finds it."""

import shutil
from collections import Counter

import polars as pl
import pytest
import yaml
from chain.conftest import Study

from tda_dagster.store import ArtifactStore
from warehouse.build import query

pytestmark = pytest.mark.slow

SETTINGS = {
    "catalogue_unlearning": {"unlearning": {"draws": 2}},
    "daunce": {"training": {"steps": 2, "batch_size": 4}, "pairs": 2},
}


@pytest.fixture
def attributed(copy: Study) -> Study:
    """A study attributed by both methods."""
    path = copy.root / "params.yaml"
    params = yaml.safe_load(path.read_text()) | {"methods": list(SETTINGS)}
    params["method_settings"] |= SETTINGS
    path.write_text(yaml.safe_dump(params))
    copy.run("tda", "materialize", "attribution")
    return copy


def work_done(study: Study) -> Counter[str]:
    """How many shards of scores there are by the first word of their names."""
    refs = ArtifactStore(str(study.root / "data" / "store")).refs()
    names = [r.recipe.partition for r in refs if r.recipe.asset == "attribution/scores/shard"]
    return Counter(name.split("|")[0] for name in names)


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
    attributed.run("tda", "materialize", "attribution", "--cohort", "again")
    new = work_done(attributed) - before
    models = 2 * SETTINGS["daunce"]["pairs"]  # type: ignore[operator]
    # Each method sweeps the queries once under each of its models.
    assert new == {"queries": groups + 1, "perturbed": models}

    attributed.run("tda", "materialize", "warehouse", "--cohort", "again")
    sums = query(
        attributed.root / "warehouse" / "attribution.duckdb",
        "select s.query_id, t.rightsholder, count(distinct s.score) n from fct_score s "
        "join dim_method m using (method_id) join dim_segment using (segment_id) "
        "join dim_track t using (track_id) where m.method = 'catalogue_unlearning' group by all",
    )
    assert sums.height
    assert set(sums["n"]) == {1}

    attributed.run("tda", "gc", "--delete", "--grace-hours", "0")
    kept = work_done(attributed)
    assert kept["group"] == groups  # still to be asked for by the next cohort


def test_an_unknown_column_is_named_with_those_there_are(attributed: Study) -> None:
    path = attributed.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["method_settings"]["catalogue_unlearning"]["group"] = "owner"
    path.write_text(yaml.safe_dump(params))
    told = attributed.run("tda", "materialize", "attribution", check=False)
    assert told.returncode == 1
    assert "group: 'owner' is not a column of the tracks" in told.stderr
    assert "rightsholder" in told.stderr
    assert "Traceback" not in told.stderr
