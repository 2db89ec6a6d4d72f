import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tda_dagster.cli_history import register
from tda_dagster.errors import TdaError
from tda_dagster.store import digest_of
from tda_dagster.store.verification import verify_needed

ROOT = Path(__file__).parents[2]
Tda = Callable[..., Result]


@pytest.fixture
def tda(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tda:
    """`tda(words…)` in a workspace whose store is the study's."""
    (tmp_path / "params.yaml").write_text(f"store:\n  root: {study.root}\n")
    monkeypatch.setenv("TDA_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    app = typer.Typer()
    register(app)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, words)

    return run


def test_lineage_prints_the_tree(study: Any, tda: Tda) -> None:
    study.make()
    answer = tda("lineage", "demo-000", "--top", "2")
    assert answer.exit_code == 0
    assert digest_of(b"audio of t03") in answer.output
    assert "rank 1" in answer.output
    failed = tda("lineage", "demo-9")
    assert isinstance(failed.exception, TdaError)
    assert "demo-000" in str(failed.exception)


def test_a_sound_store_is_said_to_be_sound(study: Any, tda: Tda) -> None:
    study.make()
    answer = tda("verify")
    assert answer.exit_code == 0
    assert "everything is what it was made as" in answer.output


def test_verify_names_the_damage_and_what_to_do(study: Any, tda: Tda) -> None:
    made = study.make()
    path = study.store.local_file(digest_of(_file(study, made, "base/fisher")))
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    answer = tda("verify")
    assert answer.exit_code == 1
    assert "corrupt" in answer.output
    assert str(path) in answer.output
    assert "base/fisher" in answer.output
    assert "fisher.safetensors" in answer.output
    assert "run `tda materialize base/fisher`" in answer.output
    assert len([line for line in answer.output.splitlines() if "corrupt" in line]) == 1
    study.make()
    assert tda("verify").exit_code == 0
    path.unlink()
    again = tda("verify")
    assert again.exit_code == 1
    assert "missing" in again.output
    study.make()
    assert tda("verify").exit_code == 0


def test_verify_all_also_looks_at_shards_and_copies(study: Any, tda: Tda) -> None:
    study.make()
    assert tda("verify", "--all").exit_code == 0
    shard = next(r for r in study.store.refs() if r.recipe.asset == "dataset/latents/shard")
    path = study.store.local_file(shard.digest)
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    assert tda("verify").exit_code == 0
    answer = tda("verify", "--all")
    assert answer.exit_code == 1
    (line,) = [line for line in answer.output.splitlines() if "corrupt" in line]
    for words in (str(path), "dataset/latents/shard", "made again if it is asked for"):
        assert words in line


def _file(study: Any, made: Any, asset: str) -> bytes:
    artifact = study.store.artifact(made[asset].digest)
    data: bytes = artifact.read_bytes(artifact.entries[0])
    return data


def test_what_only_a_snapshot_needs_is_told_apart(study: Any, tda: Tda) -> None:
    made = study.make()
    tda("snapshot", "add", "v1")
    study.make(fisher_draws=2)
    study.store.local_file(digest_of(_file(study, made, "base/fisher"))).unlink()
    answer = tda("verify")
    assert answer.exit_code == 1
    assert "only the snapshot v1 needs it" in answer.output


def test_gc_counts_first_and_removes_when_told(study: Any, tda: Tda) -> None:
    study.make()
    new = study.make(fisher_draws=2)
    before = _files(study.root)
    young = tda("gc")
    assert "nothing to remove" in young.output
    past = time.time() - 2 * 86400
    for path in study.root.rglob("*"):
        os.utime(path, (past, past))
    dry = tda("gc")
    assert dry.exit_code == 0
    assert "base/fisher" in dry.output
    assert "nothing was removed; `tda gc --delete`" in dry.output
    assert _files(study.root) == before
    done = tda("gc", "--delete")
    assert done.exit_code == 0
    assert "removed 5 refs" in done.output
    assert verify_needed(study.store) == []
    assert {ref.recipe.key for ref in study.store.heads()} == {r.recipe.key for r in new.values()}
    # Resume caches of what is live are kept.
    shards = [r for r in study.store.refs() if r.recipe.asset == "dataset/latents/shard"]
    assert len(shards) == 8
    assert "nothing to remove" in tda("gc", "--delete").output


def _files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def test_snapshots_are_added_listed_and_removed(study: Any, tda: Tda) -> None:
    study.make()
    assert "no snapshots yet" in tda("snapshot", "list").output
    assert tda("snapshot", "add", "v1", "--note", "the first [one]").exit_code == 0
    listed = tda("snapshot", "list").output
    assert "v1" in listed
    assert "the first [one]" in listed
    assert "v1" in str(tda("snapshot", "add", "v1").exception)
    assert tda("snapshot", "remove", "v1").exit_code == 0
    assert "no snapshots yet" in tda("snapshot", "list").output


def test_a_snapshots_warehouse_goes_into_a_file_of_its_own(
    study: Any, tda: Tda, tmp_path: Path
) -> None:
    study.make()
    tda("snapshot", "add", "v1")
    answer = tda("snapshot", "warehouse", "v1", "--out", str(tmp_path / "then.duckdb"))
    assert "52 scores of 2 queries" in answer.output
    present = str(tmp_path / "warehouse" / "attribution.duckdb")
    refused = tda("snapshot", "warehouse", "v1", "--out", present)
    assert "present warehouse" in str(refused.exception)


def test_diff_prints_tables_or_json(study: Any, tda: Tda) -> None:
    study.make()
    tda("snapshot", "add", "v1")
    study.make(fisher_draws=2)
    answer = tda("diff", "v1", "live")
    assert answer.exit_code == 0
    assert "fisher.draws 4 → 2 in base/fisher" in answer.output
    plain = json.loads(tda("diff", "v1", "--json").output)
    assert plain["causes"][0]["sentence"] == "fisher.draws 4 → 2 in base/fisher"
    assert plain["scores"][0]["shares"]
    assert "'v9'" in str(tda("diff", "v9").exception)
