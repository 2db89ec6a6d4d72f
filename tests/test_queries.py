"""Queries are refused before anything is computed, by `tda query add` and when a run starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from tda_dagster.cli import app
from tda_dagster.corpus.index import SEGMENTS_SCHEMA, TRACKS_SCHEMA
from tda_dagster.errors import TdaError
from tda_dagster.queries import check_cohort, check_segments, count_windows
from tda_dagster.store import Recipe
from tda_dagster.workspace import WORKSPACE_VARIABLE, Query, Workspace

RATE = 1000


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text("dataset: {min_seconds: 0.5}\n")
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def add(*options: str) -> str:
    """What `tda query add` says; raises what it raises."""
    done = CliRunner().invoke(app, ["query", "add", *options])
    if isinstance(done.exception, TdaError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def sound(path: Path, samples: np.ndarray) -> str:
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return str(path)


def noise(seconds: float) -> np.ndarray:
    return np.asarray(0.3 * np.random.default_rng(0).standard_normal(round(RATE * seconds)))


def with_nan(seconds: float) -> np.ndarray:
    samples = noise(seconds)
    samples[7] = np.nan
    return samples


def known_model(root: Path, frames: int = 128) -> None:
    """As if the autoencoder of a model with windows of a second had been materialised."""
    recipe = Recipe(
        "base/autoencoder",
        code_version="1",
        config={"model": {"pipeline": None, "training": {"frames": frames}}},
    )
    text = '{"sampling_rate": 1000, "audio_channels": 1, "hop_length": 100, "frames": 10}'
    Workspace(root).store.materialize(
        recipe, lambda out: (out / "audio_format.json").write_text(text) and None
    )


def known_segments(root: Path, *names: str) -> None:
    """As if a dataset of these segments had been indexed."""
    frame = pl.DataFrame({"segment_id": names}, schema={"segment_id": pl.String})
    table = pl.concat([pl.DataFrame(schema=SEGMENTS_SCHEMA), frame], how="diagonal")

    def write(out: Path) -> None:
        table.with_columns(split=pl.lit("train")).write_parquet(out / "segments.parquet")
        pl.DataFrame(schema=TRACKS_SCHEMA).write_parquet(out / "tracks.parquet")

    Workspace(root).store.materialize(Recipe("dataset/index", code_version="1"), write)


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        (np.zeros(0), "holds no audio"),
        (np.zeros(2 * RATE), "silent"),
        (1e-5 * noise(2), "silent"),
        (noise(0.2), "the shortest piece is 0.5 s"),
        (with_nan(2), "NaN or Inf"),
    ],
)
@pytest.mark.parametrize("is_known", [False, True])
def test_a_recording_that_tracks_could_not_be_is_no_query(
    root: Path, samples: np.ndarray, told: str, is_known: bool
) -> None:
    if is_known:
        known_model(root)
    sound(root / "bad.wav", samples)
    with pytest.raises(TdaError, match=told) as by_add:
        add("--audio", "bad.wav")
    assert "--audio" in str(by_add.value)
    assert "bad.wav" in str(by_add.value)
    assert not (root / "cohorts").exists()
    (root / "cohorts").mkdir()
    (root / "cohorts" / "mine.yaml").write_text("queries: [{prompt: p}, {audio: bad.wav}]")
    with pytest.raises(TdaError, match=told) as by_run:
        check_cohort(Workspace(root), "mine")
    assert "mine.yaml: queries.1.audio: " in str(by_run.value)


def test_a_file_that_is_none_or_no_sound_is_named(root: Path) -> None:
    (root / "text.wav").write_text("no sound at all")
    os.mkfifo(root / "pipe.wav")
    (root / "folder.wav").mkdir()
    for name in ("missing.wav", "text.wav", "pipe.wav", "folder.wav"):
        with pytest.raises(TdaError, match=name):
            add("--audio", name)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--prompt", ""], "prompt: .*empty"),
        (["--prompt", " \t\n"], "prompt: .*empty"),
        (["--prompt", "a\x00b"], "prompt: .*not text"),
        (["--prompt", "caf\udce9"], "prompt"),
        (["--prompt", "x" * 100_000], "prompt: .*100000 characters"),
        (["--segment", ""], "segment: .*empty"),
        (["--prompt", "p", "--seed", "18446744073709551616"], "seed"),
        (["--prompt", "p", "--seed", "9223372036854775808"], "seed"),
        (["--prompt", "p", "--seed", "-1"], "seed"),
        (["--prompt", "p", "--seconds", "0"], "seconds"),
        (["--prompt", "p", "--seconds", "-2"], "seconds"),
        (["--prompt", "p", "--seconds", "nan"], "seconds"),
        (["--prompt", "p", "--seconds", "inf"], "seconds"),
        (["--prompt", "p", "--seconds", "0.1"], "seconds: 0.1 s is shorter"),
        (["--segment", "t:0000", "--seed", "3"], "--seed belongs to --prompt"),
        (["--prompt", "p", "--caption", "c"], "--caption belongs to --audio"),
        ([], "nothing to add"),
    ],
)
def test_options_that_can_never_run_are_refused(root: Path, options: list[str], told: str) -> None:
    with pytest.raises(TdaError, match=told):
        add(*options)
    assert not (root / "cohorts" / "mine.yaml").exists()


def test_a_file_whose_name_is_not_utf8_is_refused_in_a_line(root: Path) -> None:
    name = os.fsencode(root) + b"/caf\xe9.wav"
    Path(os.fsdecode(name)).write_bytes(Path(sound(root / "good.wav", noise(1))).read_bytes())
    with pytest.raises(TdaError, match=r"caf\\udce9\.wav.*audio: ") as error:
        add("--audio", os.fsdecode(name))
    str(error.value).encode()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("queries: [{prompt: p}, {prompt: '  '}]", r"queries\.1\.prompt: .*empty"),
        ("queries: [{prompt: p, seed: -1}]", r"queries\.0\.seed"),
        ("queries: [{prompt: p, seed: 99999999999999999999}]", r"queries\.0\.seed"),
        ("queries: [{prompt: p, seconds: .nan}]", r"queries\.0\.seconds"),
        ("queries: [{prompt: p, seconds: 0.2}]", r"queries\.0\.seconds: 0.2 s is shorter"),
        ("queries: [{prompt: p, seconds: 1.5}]", r"queries\.0\.seconds: 1.5 s is longer"),
        ("queries: [{prompt: p, caption: c}]", r"queries\.0: .*caption has no effect"),
        ("queries: [{audio: a.wav, seconds: 3}]", r"queries\.0: .*seconds has no effect"),
        ("queries: [{audio: a.wav}]", r"queries\.0\.audio: .*no such audio file"),
        ("fidelity: -1\nqueries: [{prompt: p}]", "fidelity"),
    ],
)
def test_a_cohort_written_by_hand_gets_the_same_errors(root: Path, text: str, told: str) -> None:
    known_model(root)
    (root / "cohorts").mkdir()
    (root / "cohorts" / "own.yaml").write_text(text)
    with pytest.raises(TdaError, match=told) as error:
        check_cohort(Workspace(root), "own")
    assert "own.yaml" in str(error.value)


def test_a_segment_is_looked_for_once_the_dataset_is_indexed(root: Path) -> None:
    assert "checked when the study is run" in add("--segment", "t:0009")
    workspace = Workspace(root)
    assert check_cohort(workspace, "mine").is_open
    check_segments(workspace, "mine")  # nothing is known yet
    known_segments(root, "t:0000", "t:0001")
    with pytest.raises(TdaError, match=r"mine\.yaml: queries\.0\.segment: 't:0009'"):
        check_segments(workspace, "mine")
    with pytest.raises(TdaError, match=r"--segment t:0008.*no such segment"):
        add("--segment", "t:0008")
    add("--segment", "t:0001", "-c", "other")
    assert not check_cohort(workspace, "other").is_open


def test_targets_are_counted_once_the_dataset_is_indexed(root: Path) -> None:
    (root / "cohorts").mkdir()
    for name, count in (("few", 2), ("many", 3)):
        (root / "cohorts" / f"{name}.yaml").write_text(f"targets: {{count: {count}}}")
    workspace = Workspace(root)
    check_segments(workspace, "many")  # nothing is known yet
    assert check_cohort(workspace, "few").is_open
    known_segments(root, "t:0000", "t:0001")
    check_segments(workspace, "few")
    assert not check_cohort(workspace, "few").is_open
    assert count_windows(workspace, "few") == 2
    with pytest.raises(TdaError, match=r"many\.yaml: targets\.count: 3 .* among 2 segments"):
        check_segments(workspace, "many")


def test_it_says_how_many_windows_a_recording_has(root: Path) -> None:
    samples = noise(3.2)
    samples[1000:2000] = 0
    sound(root / "long.wav", samples)
    assert "checked when the study is run" in add("--audio", "long.wav")
    known_model(root)
    said = add("--audio", "long.wav")
    assert count_windows(Workspace(root), "mine") == 2 * 2
    assert "mine-001  long.wav: 3.2 s, 3 windows of 1.00 s" in said
    assert "silent and not attributed: 1 (1)" in said
    assert "the last 0.20 s are too short" in said
    # The window of another model is not known before that is materialised.
    known_model(root, frames=64)
    assert "checked when the study is run" in add("--audio", "long.wav")


def test_nothing_is_added_when_one_of_several_is_refused(root: Path) -> None:
    add("--prompt", "first")
    before = (root / "cohorts" / "mine.yaml").read_bytes()
    sound(root / "silent.wav", np.zeros(RATE))
    with pytest.raises(TdaError):
        add("--prompt", "second", "--audio", "silent.wav")
    assert (root / "cohorts" / "mine.yaml").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "# of mine\nqueries:\n- prompt: one # the first\n",
        "# of mine\nqueries:\n  - {prompt: one, seed: 0}",
        "# of mine\nfidelity: 1\nqueries:\n  # two\n  - prompt: one\n\n\n",
    ],
)
def test_adding_keeps_what_a_person_wrote(root: Path, text: str) -> None:
    (root / "cohorts").mkdir()
    file = root / "cohorts" / "mine.yaml"
    file.write_text(text)
    add("--prompt", "two: 'quoted' #3", "--seed", "5")
    assert file.read_text().startswith(text.rstrip("\n"))
    found = Workspace(root).cohort("mine").queries
    assert found == (Query(prompt="one"), Query(prompt="two: 'quoted' #3", seed=5))


def test_adding_to_a_list_in_brackets_keeps_every_query(root: Path) -> None:
    (root / "cohorts").mkdir()
    file = root / "cohorts" / "mine.yaml"
    file.write_text("queries: [{prompt: one}]\nfidelity: 1\n")
    add("--prompt", "two")
    cohort = Workspace(root).cohort("mine")
    assert [query.prompt for query in cohort.queries] == ["one", "two"]
    assert cohort.fidelity == 1


PROCESSES, ADDED = 6, 5


_ADD_SOME = """
import sys
from pathlib import Path
from tda_dagster.workspace import Query, Workspace
for turn in range(int(sys.argv[3])):
    Workspace(Path(sys.argv[1])).add_queries("mine", [Query(prompt=f"{sys.argv[2]} {turn}")])
"""


def test_parallel_additions_are_all_kept_and_readers_see_whole_files(root: Path) -> None:
    adding = [
        subprocess.Popen([sys.executable, "-c", _ADD_SOME, str(root), str(n), str(ADDED)])
        for n in range(PROCESSES)
    ]
    seen = 0
    while any(process.poll() is None for process in adding):
        if seen or "mine" in Workspace(root).cohorts():
            now = len(Workspace(root).cohort("mine").queries)
            assert now >= seen
            seen = now
    assert [process.wait() for process in adding] == [0] * PROCESSES
    prompts = [query.prompt for query in Workspace(root).cohort("mine").queries]
    expected = [f"{n} {turn}" for n in range(PROCESSES) for turn in range(ADDED)]
    assert sorted(map(str, prompts)) == sorted(expected)


def test_a_process_killed_while_it_adds_loses_nothing_that_was_there(root: Path) -> None:
    script = (
        "import itertools, sys; from pathlib import Path\n"
        "from tda_dagster.workspace import Query, Workspace\n"
        "for n in itertools.count():\n"
        "    Workspace(Path(sys.argv[1])).add_queries('mine', [Query(prompt=str(n))])\n"
        "    print(n, flush=True)\n"
    )
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        said = 5 + len(process.stdout.read().splitlines())
        process.wait()
        queries = yaml.safe_load((root / "cohorts" / "mine.yaml").read_text())["queries"]
        assert len(queries) >= said
        add("--prompt", "after")  # the lock of the killed process is free
        (root / "cohorts" / "mine.yaml").unlink()
