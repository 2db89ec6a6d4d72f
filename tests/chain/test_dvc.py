"""DVC decides whether, Dagster records: the two never disagree, and DVC compares what came out."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from chain.conftest import RemoteStudy, Study, own_study
from s3_server import BUCKET, S3Server, s3_server  # noqa: F401  (a fixture)

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


@pytest.fixture
def own(tmp_path: Path, oobleck_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Somebody's own music and model under git and DVC, run by a package installed elsewhere."""
    study = own_study(tmp_path / "own", oobleck_folder)
    site = tmp_path / "site"
    for package in ("tda_dagster", "assets", "warehouse"):
        ignored = shutil.ignore_patterns("__pycache__", "*.duckdb")
        shutil.copytree(ROOT / package, site / package, ignore=ignored)
    monkeypatch.setenv("PYTHONPATH", str(site))
    shutil.copytree(oobleck_folder, study.root / "models" / "mine")
    settings = yaml.safe_load((study.root / "params.yaml").read_text())
    settings["model"]["pipeline"] = "models/mine"
    (study.root / "params.yaml").write_text(yaml.safe_dump(settings))
    shutil.copy(study.root / "music" / "tone3.wav", study.root / "query.wav")
    (study.root / "cohorts" / "reference.yaml").write_text(
        'queries: [{prompt: "a fast violin dance"}, {audio: query.wav, caption: a tone}]\n'
    )
    (study.root / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    git(study, "init", "-q")
    study.run("dvc", "init", "-q")
    return study


def changed_stages(study: Study) -> set[str]:
    """The stages that DVC would run before it knows what they give to others."""
    return set(json.loads(study.run("dvc", "status", "--json").stdout))


def figures_of(study: Study) -> dict[str, bytes]:
    """What DVC compares, by file."""
    folder = study.root / "data"
    files = [folder / "metrics.json", *folder.glob("plots/*"), *folder.glob("digests/*")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_dvc_sees_whatever_a_user_changes(own: Study, tmp_path: Path) -> None:
    said = own.run("tda", "run").stdout.splitlines()
    started = [line.split()[1] for line in said if re.fullmatch(r"  … \w+/\w+", line)]
    finished = [line.split()[1] for line in said if line.startswith("  ✓")]
    assert started == finished
    assert len(set(started)) == 21
    assert changed_stages(own) == set()

    every = {"inputs", "dataset", "base", "attribution", "warehouse"}
    version = tmp_path / "site" / "tda_dagster" / "version.py"
    weights = next((own.root / "models" / "mine" / "transformer").glob("*.safetensors"))
    declaration = tmp_path / "site" / "assets" / "base.py"
    for path, stages in {
        own.root / "music" / "manifest.csv": {"inputs", "dataset"},
        own.root / "music" / "tone4.wav": {"inputs", "dataset"},
        weights: {"inputs", "dataset", "base"},
        own.root / "query.wav": {"inputs", "attribution"},
        own.root / "cohorts" / "reference.yaml": {"inputs", "attribution"},
        declaration: every,
        version: every,
    }.items():
        kept = path.read_bytes()
        path.write_bytes(kept + b"\n# changed\n")
        assert changed_stages(own) == stages, path
        path.write_bytes(kept)
        assert changed_stages(own) == set(), path

    # Another cohort is nothing to DVC.
    before = figures_of(own)
    own.run("tda", "query", "add", "--prompt", "a slow organ prelude", "--cohort", "mine")
    own.run("tda", "run", "mine")
    assert figures_of(own) == before
    assert changed_stages(own) == set()


def test_dvc_runs_what_has_changed_and_takes_back_what_was_there(own: Study) -> None:
    manifest, late = own.root / "music" / "manifest.csv", own.root / "music" / "late.wav"
    digests = own.root / "data" / "digests" / "dataset.json"
    kept = manifest.read_text()
    own.run("dvc", "repro", "dataset")
    before = digests.read_text()
    assert "Running" not in own.run("dvc", "repro", "dataset").stdout
    # A file that is listed and not there is rejected, and missed at every look.
    manifest.write_text(kept + "late.wav,a tone,late,label 1,90\n")
    said = own.run("dvc", "repro", "dataset").stdout
    assert "Running stage 'dataset'" in said
    assert "files of the manifest that are not there (1)" in said
    rejected = digests.read_text()
    said = own.run("dvc", "repro", "dataset").stdout
    assert "Running stage 'inputs'" in said
    assert "Running stage 'dataset'" not in said
    shutil.copy(own.root / "music" / "tone5.wav", late)
    assert "Running stage 'dataset'" in own.run("dvc", "repro", "dataset").stdout
    assert len({before, rejected, digests.read_text()}) == 3
    manifest.write_text(kept)
    late.unlink()
    said = own.run("dvc", "repro", "dataset").stdout
    assert digests.read_text() == before
    assert "✓ dataset/latents            cached" in said
    assert changed_stages(own) == {"base", "attribution", "warehouse"}  # which never ran


def test_music_in_a_bucket_is_asked_for_every_time(
    own: Study,
    s3_server: S3Server,  # noqa: F811
) -> None:
    study, files = RemoteStudy(own.root, s3_server), s3_server.filesystem()
    files.put(f"{study.root}/music/", f"{BUCKET}/own-music/", recursive=True)
    settings = yaml.safe_load((study.root / "params.yaml").read_text())
    settings["dataset"]["manifest"] = f"s3://{BUCKET}/own-music/manifest.csv"
    (study.root / "params.yaml").write_text(yaml.safe_dump(settings))
    stamp = study.root / "data" / "inputs" / "manifest"
    study.run("dvc", "repro", "inputs")
    before = stamp.read_bytes()
    study.run("dvc", "repro", "inputs")
    assert stamp.read_bytes() == before
    files.pipe(f"{BUCKET}/own-music/tone4.wav", b"other audio")
    assert "Running stage 'inputs'" in study.run("dvc", "repro", "inputs").stdout
    assert stamp.read_bytes() != before
