"""The commands with hostile text in every place: nothing is obeyed, parsed or lost."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tda_dagster import cli
from tda_dagster.attribution.methods import method_specs
from tda_dagster.workspace import Workspace
from warehouse.build import build

TAGS = "[bold]b[/bold] [/x] [link=http://e]l[/link] [verse]"
HOSTILE = f"\x1b]0;t\x07 {TAGS} \x9b31m \r\b \u202egnp \udc80 :smile:"
OBEYED = set("\x1b\x07\x9b\r\b\u202e\udc80")
Tda = Callable[..., tuple[int, str]]
"""Runs `tda` with words; returns the exit code and what was printed to both streams."""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TDA_WORKSPACE", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "params.yaml").write_text("{}")
    (tmp_path / "cohorts").mkdir()
    return Workspace(tmp_path)


@pytest.fixture
def tda(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tda:
    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tda", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        text = said.out + said.err
        assert not set(text) & OBEYED, text
        assert "Traceback" not in text
        return int(ended.value.code or 0), text

    return run


@pytest.fixture
def hostile(workspace: Workspace, tables: dict[str, pl.DataFrame]) -> None:
    """A warehouse of cohort `c` under the main method, whose texts are all hostile."""
    method = method_specs(workspace.settings)[0].method_id
    texts = {"title", "composer", "rightsholder", "artist", "prompt", "caption"}
    changed = {
        name: frame.with_columns(
            *(
                (pl.lit(f"{HOSTILE[:-9]}\n").alias(c) if c in texts else pl.col(c))
                for c in frame.columns
            )
        ).with_columns(
            *(pl.col("method_id").replace("m1", method),) if "method_id" in frame.columns else ()
        )
        for name, frame in tables.items()
    }
    build(workspace.database, changed)


@pytest.mark.parametrize(
    "words",
    [
        ("run", HOSTILE),
        ("materialize", HOSTILE),
        ("materialize", "dataset", "--cohort", HOSTILE),
        ("experiment", HOSTILE),
        ("experiment", HOSTILE, "--preflight"),
        ("summary", HOSTILE),
        ("sql", HOSTILE),
        ("sql", f"select 1 as {TAGS}"),
        ("query", "add", "--audio", HOSTILE),
        ("query", "add", "--prompt", "x", "--cohort", HOSTILE),
        ("query", "add", "--prompt", "x", "--seconds", HOSTILE),
        ("takedown", HOSTILE),
        ("growth", "--cohort", HOSTILE),
        ("lineage", HOSTILE),
        ("lineage", "x", "--at", HOSTILE),
        ("lineage", "x", "--method", HOSTILE),
        ("snapshot", "add", HOSTILE),
        ("snapshot", "remove", HOSTILE),
        ("snapshot", "warehouse", HOSTILE, "--out", HOSTILE),
        ("diff", HOSTILE),
        ("diff", HOSTILE, HOSTILE, "--json"),
        ("export", HOSTILE),
        ("bench", "attribution", "--study", HOSTILE),
        ("ui", "--host", HOSTILE),
        ("ui", "--port", HOSTILE),
        ("ui", "--allow-host", HOSTILE),
        (HOSTILE,),
        (f"--{HOSTILE}",),
        ("run", f"--{HOSTILE}"),
        ("query", HOSTILE),
    ],
    ids=lambda words: " ".join(words)[:20].split("\x1b")[0],
)
def test_a_hostile_word_ends_in_an_error_that_quotes_it(
    tda: Tda, workspace: Workspace, words: tuple[str, ...]
) -> None:
    code, text = tda(*words)
    assert code in (1, 2)
    assert "error" in text.lower() or "Usage" in text
    assert len(text.strip().splitlines()) <= 6


def test_prompts_keep_their_brackets(tda: Tda, workspace: Workspace) -> None:
    prompt = "slow intro [/verse] [verse] [chorus] loud \\[x] [link=http://e]"
    code, _ = tda("query", "add", "--prompt", prompt, "--cohort", "mine")
    assert code == 0
    code, text = tda("query", "list")
    assert code == 0
    assert prompt in text
    assert workspace.cohort("mine").queries[0].prompt == prompt


def test_controls_in_a_cohort_file_are_shown(tda: Tda, workspace: Workspace) -> None:
    """Whether they are listed or refused."""
    text = 'queries: [{prompt: "a\\x1b]0;x [/x]\\nb"}]'
    (workspace.root / "cohorts" / "mine.yaml").write_text(text)
    _, said = tda("query", "list")
    assert r"a\x1b]0;x [/x]\nb" in said


@pytest.mark.parametrize(
    "name", ["not: [valid", "a: !!python/object:os.system\n", "queries: [{x: 1}]"]
)
def test_errors_of_yaml_are_text(tda: Tda, workspace: Workspace, name: str) -> None:
    (workspace.root / "cohorts" / "bad.yaml").write_text(f"{name} # [/x] \u009b")
    code, text = tda("run", "bad")
    assert code == 1
    assert "bad.yaml" in text


def test_titles_in_the_answer_and_in_tables_are_text(tda: Tda, hostile: None) -> None:
    code, text = tda("summary", "c")
    assert code == 0
    assert text.count(TAGS) >= 6
    for words in (
        ("sql", "select title, rightsholder from dim_track"),
        ("sql", "select title from dim_track limit 1"),
        ("sql", "--format", "json", "select title from dim_track"),
    ):
        code, text = tda(*words)
        assert code == 0
        assert "[/x]" in text


def test_the_columns_an_answer_has_and_its_forms(tda: Tda, hostile: None) -> None:
    sql = 'select 1 as a, \'x,"y\' as "[/b]", null as n, 0.1::double as f from range(3)'
    code, text = tda("sql", sql)
    assert (code, text.splitlines()[0].split()) == (0, ["a", "[/b]", "n", "f"])
    assert len(text.splitlines()) == 5
    _, text = tda("sql", "--format", "csv", sql)
    assert text.splitlines()[:2] == ["a,[/b],n,f", '1,"x,""y",,0.1']
    _, text = tda("sql", "--format", "json", "--limit", "2", sql)
    assert json.loads(text) == [{"a": 1, "[/b]": 'x,"y', "n": None, "f": 0.1}] * 2
    _, text = tda("sql", "--format", "json", "select 1 as a where false")
    assert json.loads(text) == []
    code, text = tda("sql", "--format", "json", "select 1 as a, 2 as a")
    assert (code, "AS" in text) == (1, True)
    _, text = tda("sql", "--limit", "2", "select * from range(3)")
    assert "first 2 rows" in text


def test_a_wide_row_is_a_block_on_a_narrow_terminal(
    tda: Tda, hostile: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    sql = "select track_id, 'word ' || 'word ' as b, repeat('w', 45) as c from dim_track"
    code, text = tda("sql", sql)
    assert code == 0
    assert text.splitlines()[0].startswith("─ row 1 ")
    assert text.splitlines()[1].split() == ["track_id", "t00"]
    monkeypatch.setenv("COLUMNS", "120")
    _, text = tda("sql", sql)
    assert text.splitlines()[0].split() == ["track_id", "b", "c"]
