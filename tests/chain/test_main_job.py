"""The main job from end to end: real music, real processes, the real command line."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import yaml
from chain.conftest import ROOT, Study, new_study, stale_in_dagster, stale_in_warehouse

from tda_dagster.store import ArtifactStore
from tda_dagster.store.records import sealed, unsealed
from warehouse.build import example_sql, list_examples, query

pytestmark = pytest.mark.slow

NOTHING_YET = {
    "methods_differ",
    "bench",
    "stale_artifacts",
    "spec_ranks_targets_first",
    "recommended_spec",
    "methods_agree",
    "methods_find_versions",
}
PARTITIONED = "unlearned/losses/shard"


def test_the_answer_is_printed_and_laid_out(study: Study) -> None:
    said = study.run("tda", "summary").stdout
    assert "A calm chorale in G major" in said
    assert "whose:" in said
    assert (study.root / "warehouse" / "attribution.duckdb").is_file()
    page = (study.root / "data" / "report" / "reference.html").read_text(encoding="utf-8")
    assert "A calm chorale in G major" in page


def test_a_second_run_is_all_cache_hits_and_says_so(study: Study) -> None:
    before = study.digests()
    said = study.run("tda", "run").stdout
    finished = [line for line in said.splitlines() if "✓" in line]
    assert len(finished) == 21
    assert all("cached" in line for line in finished)
    assert study.digests() == before


def test_two_runs_at_once_do_nothing_twice_and_find_what_is_found_elsewhere(
    study: Study, tmp_path: Path
) -> None:
    other = new_study(tmp_path / "elsewhere")
    runs = [
        subprocess.Popen(
            other.command("tda", "run"),
            cwd=other.root,
            env=other.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [run.communicate(timeout=900) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert other.digests() == study.digests()
    lines = [{line.split()[1]: line for line in out.splitlines() if "✓" in line} for out, _ in said]
    assert lines[0].keys() == lines[1].keys()
    for asset, line in lines[0].items():
        assert ("cached" in line) != ("cached" in lines[1][asset]), asset


def test_shares_sum_to_one_and_every_training_segment_is_scored(study: Study) -> None:
    database = study.root / "warehouse" / "attribution.duckdb"
    sums = query(database, "select sum(share) s from v_rightsholder_share group by query_id")
    assert sums["s"].to_list() == pytest.approx([1.0, 1.0])
    counts = query(
        database,
        "select count(*) n, (select count(*) from dim_segment where split = 'train') wanted "
        "from fct_score group by query_id",
    )
    assert (counts["n"] == counts["wanted"]).all()


@pytest.mark.parametrize("name", list_examples())
def test_every_example_query_answers(study: Study, name: str) -> None:
    said = study.run("tda", "sql", name).stdout
    rows = query(study.root / "warehouse" / "attribution.duckdb", example_sql(name))
    assert said.strip()
    # Nothing is stale here, and no experiment has been run: tests of those are elsewhere.
    assert rows.height > 0 or name in NOTHING_YET


def test_the_lineage_of_a_score_ends_at_the_audio_file(study: Study) -> None:
    rows = query(study.root / "warehouse" / "attribution.duckdb", example_sql("score_lineage"))
    assets = set(rows["asset"])
    assert {"attribution/scores", "base/fisher", "dataset/manifest", "audio file"} <= assets
    audio = rows.filter(asset="audio file")
    exported = next((study.root / "data" / "cache").glob(f"*/{audio['partition'][0]}"))
    assert hashlib.sha256(exported.read_bytes()).hexdigest() == audio["sha256"][0]


def test_killed_in_the_sweep_it_goes_on_where_it_stood(study: Study, copy: Study) -> None:
    for asset in (
        "unlearned/losses",
        "attribution",
        "evaluation/attribution",
        "warehouse",
        "report",
    ):
        for kind in ("refs", "heads"):
            shutil.rmtree(copy.root / "data" / "store" / kind / asset, ignore_errors=True)
    for head in (copy.root / "data" / "store" / "heads" / "unlearned").glob("losses*"):
        shutil.rmtree(head)
    shutil.rmtree(copy.root / "data" / "digests")
    process = copy.start("tda", "run")
    deadline = time.monotonic() + 300
    while len(copy.refs(PARTITIONED)) < 2:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    survived = copy.refs(PARTITIONED)
    total = len(study.refs(PARTITIONED))
    assert 2 <= len(survived) < total, "killed too late to test anything"
    copy.run("tda", "run")
    after = copy.refs(PARTITIONED)
    assert {name: after[name] for name in survived} == survived, "finished shards were redone"
    assert len(after) == total
    assert copy.digests() == study.digests()
    # What it took has what the shards took that it found, side by side on two workers at most.
    (whole,) = (ref for ref in copy.refs("unlearned/losses").values() if "shard" not in str(ref))
    assert (
        float(str(whole["seconds"])) > sum(float(str(s["seconds"])) for s in survived.values()) / 2
    )


def test_dagster_materialises_the_same_graph(study: Study) -> None:
    partition = study.run("tda", "partitions").stdout.split()[0]
    before = study.digests()
    study.run(
        "dagster", "asset", "materialize", "-m", "tda_dagster.definitions",
        "--select", "not tag:on_request=true", "--partition", partition,
    )  # fmt: skip
    study.run("tda", "materialize")
    assert study.digests() == before


def test_new_queries_reuse_everything_but_themselves(copy: Study) -> None:
    base = copy.digests()["base"]
    copy.run("tda", "query", "add", "--prompt", "Church organ in C major", "--seed", "7")
    segment = query(
        copy.root / "warehouse" / "attribution.duckdb",
        "select min(segment_id) s from dim_segment where split = 'train'",
    )["s"][0]
    copy.run("tda", "query", "add", "--segment", segment)
    flac = copy.root / "piece.flac"
    shutil.copy(next((copy.root / "data" / "cache").glob("*/audio/*.flac")), flac)
    copy.run("tda", "query", "add", "--audio", str(flac), "--caption", "a tune")
    said = copy.run("tda", "run", "mine").stdout
    assert "mine-000" in said
    lines = {line.split()[1]: line for line in said.splitlines() if "✓" in line}
    assert all("cached" in lines[name] for name in lines if name.startswith(("base/", "dataset/")))
    kinds = query(
        copy.root / "warehouse" / "attribution.duckdb",
        "select kind from v_piece_summary where cohort = 'mine' order by query_index",
    )
    assert kinds["kind"].to_list() == ["generated", "segment", "audio"]
    assert copy.digests()["base"] == base
    # A file that is gone afterwards is that cohort's trouble, not the others'.
    flac.unlink()
    copy.run("tda", "run", "reference")
    told = copy.run("tda", "run", "mine", check=False)
    assert "piece.flac" in told.stderr


@dataclass(frozen=True)
class OtherCode(Study):
    """A study that is run by the code in `packages`."""

    packages: Path

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"PYTHONPATH": str(self.packages)}


def other_setting(copy: Study, _: Path) -> Study:
    params = yaml.safe_load((copy.root / "params.yaml").read_text())
    params["fisher"]["draws"] = 2
    (copy.root / "params.yaml").write_text(yaml.safe_dump(params))
    return copy


def other_code(copy: Study, folder: Path) -> Study:
    """The same study under code whose `base/fisher` has another version."""
    for package in ("assets", "tda_dagster", "warehouse"):
        shutil.copytree(ROOT / package, folder / package)
    file = folder / "assets" / "base.py"
    text, changes = re.subn(
        r'("base/fisher",\n +version=)"(\w+)"', r'\1"\2 with a difference"', file.read_text()
    )
    assert changes == 1
    file.write_text(text)
    return OtherCode(copy.root, folder)


@pytest.mark.parametrize("change", [other_setting, other_code])
def test_a_changed_setting_or_code_makes_exactly_its_dependents_stale(
    copy: Study, tmp_path: Path, change: Callable[[Study, Path], Study]
) -> None:
    changed = change(copy, tmp_path / "packages")
    stale = {
        "base/fisher",
        "unlearned/checkpoints",
        "unlearned/losses",
        "attribution/scores",
        "evaluation/attribution",
        "evaluation/generations",
        "warehouse/duckdb",
        "report/pages",
        "report/experiments",
        "report/bench",
    }
    assert stale_in_dagster(changed) == stale
    # The view speaks of the moment the database was built, so it is built anew.
    changed.run("tda", "materialize", "warehouse")
    assert stale_in_warehouse(changed) == stale


def test_mistakes_are_told_in_one_line(copy: Study) -> None:
    params = yaml.safe_load((copy.root / "params.yaml").read_text())
    params["noise"]["drawz"] = 3
    (copy.root / "params.yaml").write_text(yaml.safe_dump(params))
    told = copy.run("tda", "run", check=False)
    assert told.returncode == 1
    assert "noise.drawz" in told.stderr
    assert "Traceback" not in told.stderr
    del params["noise"]["drawz"]
    (copy.root / "params.yaml").write_text(yaml.safe_dump(params))
    told = copy.run("tda", "run", "nobody", check=False)
    assert "there is no cohort 'nobody'" in told.stderr
    told = copy.run("tda", "sql", "select wrong from dim_track", check=False)
    assert "wrong" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_failed_check_stops_the_run_and_keeps_the_live_artifact(copy: Study) -> None:
    store = ArtifactStore(copy.root / "data" / "store")
    head = store.head("base/losses")
    assert head is not None
    changed = copy.root / "changed"
    store.artifact(head.digest).export(changed)
    for path in changed.iterdir():
        pl.read_parquet(path).with_columns(pl.col("loss") * 1.01).write_parquet(path)
    digest = store.put_tree(changed)
    (name,) = copy.refs("base/losses/_")
    ref = copy.root / "data" / "store" / "refs" / "base" / "losses" / "_" / name
    ref.chmod(0o644)
    ref.write_bytes(sealed(unsealed(ref.read_bytes()) | {"digest": digest}))
    told = copy.run("tda", "materialize", "base", "cohort", check=False)
    assert told.returncode == 1
    assert "reproducible" in told.stderr
    assert "Traceback" not in told.stderr
