"""DVC decides whether, Dagster records: the two never disagree, and DVC compares what came out."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from chain.conftest import Study

from tda_dagster.store import ArtifactStore

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# The warehouse, and with it the report, has all method specs that were ever scored.
REPEATED = ("dataset", "base", "cohort", "unlearned", "attribution", "evaluation")


@pytest.fixture
def tracked(copy: Study, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study under git and DVC, its first state committed."""
    for role in ("AUTHOR", "COMMITTER"):  # `dvc exp run` commits too
        monkeypatch.setenv(f"GIT_{role}_NAME", "tests")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tests@example.org")
    (copy.root / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    (copy.root / ".gitignore").write_text("/data/\n/warehouse/*.duckdb*\n/dvc_plots/\n")
    git(copy, "init", "-q")
    copy.run("dvc", "init", "-q")
    copy.run("dvc", "repro")
    git(copy, "add", "-A")
    git(copy, "commit", "-q", "-m", "first")
    return copy


def git(study: Study, *words: str) -> None:
    subprocess.run(["git", *words], cwd=study.root, check=True)


def live(study: Study) -> dict[tuple[str, str], str]:
    heads = ArtifactStore(study.root / "data" / "store").heads()
    return {(ref.recipe.asset, ref.recipe.partition): ref.digest for ref in heads}


def test_an_experiment_can_be_compared_and_undone(tracked: Study) -> None:
    figures = tracked.root / "data" / "metrics.json"
    before, metrics, digests = live(tracked), figures.read_text(), tracked.digests()
    assert json.loads(metrics)["training"].keys() == {"train_loss", "heldout_loss"}

    tracked.run("dvc", "exp", "run", "-n", "two-steps", "-S", "unlearning.steps=2")
    changed = json.loads(tracked.run("dvc", "metrics", "diff", "--json").stdout)
    (differences,) = changed.values()
    assert any(name.startswith("attribution.fim_unlearning") for name in differences)
    assert not any(name.startswith("training") for name in differences)
    shown = tracked.run("dvc", "exp", "show", "--csv").stdout
    assert "two-steps" in shown
    assert "attribution.fim_unlearning.gini" in shown
    page = tracked.run("dvc", "plots", "diff", "HEAD").stdout.strip()
    text = Path(page.removeprefix("file://")).read_text(encoding="utf-8")
    for title in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]:
        assert next(iter(title.values()))["title"] in text

    # From DVC's cache of runs a stage's outputs would come back, but nothing would be live again.
    git(tracked, "checkout", "-q", "params.yaml", "dvc.lock")
    tracked.run("dvc", "repro")
    assert figures.read_text() == metrics
    assert {group: tracked.digests()[group] for group in REPEATED} == {
        group: digests[group] for group in REPEATED
    }
    now = live(tracked)
    same = {place for place in before if place[0].split("/")[0] in REPEATED}
    assert same
    assert {place: now[place] for place in same} == {place: before[place] for place in same}
    assert "knows of everything" in tracked.run("tda", "reconcile").stdout
    again = tracked.run("dvc", "repro")
    assert "Data and pipelines are up to date" in again.stdout + again.stderr
