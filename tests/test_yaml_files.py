"""YAML files of users: whatever is wrong with one is told in a line, and soon."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tda_dagster.errors import SettingsError
from tda_dagster.params_file import put_setting
from tda_dagster.settings import load_settings
from tda_dagster.workspace import Workspace
from tda_dagster.yaml_files import load_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{n}: &a{n} {{k: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
)

FAULTS = {
    "a sequence bomb": (BOMB, r"its aliases .* expand to more than 16 MB"),
    "a mapping bomb": (MERGES, r"its aliases .* expand to more than 16 MB"),
    "long text again and again": (
        f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 500)}]\n",
        "its aliases .* expand",
    ),
    "an alias of itself": ("a: &a [1, *a]\n", r"line 1: the alias \*a contains itself"),
    "an unknown alias": ("a: *nowhere\n", r"line 1: the alias \*nowhere stands for nothing"),
    "deep nesting": ("a: " + "[" * 100_000, "line 1: nested deeper than 100 levels"),
    "a large file": ("a: '" + "x" * 5_000_000 + "'\n", "larger than 4 MB"),
    "a key twice": ("noise:\n  draws: 1\n  seed: 2\n  draws: 3\n", "line 4: .*'draws' is given tw"),
    "a section twice": ("noise: {draws: 1}\nnoise: {seed: 1}\n", "line 2: .*'noise' .* on line 1"),
    "Latin-1": ("a: café\n".encode("latin1"), "line 1 is not UTF-8 .byte 0xe9"),
    "UTF-16": ("a: b\n".encode("utf-16"), "UTF-16, not UTF-8"),
    "a NUL": (b"a: \0\n", "not valid YAML"),
    "no such day": ("a: 2024-13-45\n", "a value cannot be read"),
    "a number of 10,000 digits": ("a: " + "9" * 10_000, "a number has too many digits"),
    "a Python object": ("a: !!python/object/apply:os.system [true]\n", "not valid YAML: line 1"),
    "an open bracket": ("a: [", "not valid YAML: line [12], column "),
}

FAULTS_OF_VALUES = {"no such day", "a number of 10,000 digits", "a Python object"}
"""Not seen by what changes the text of a file without reading its values."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_in_one_line_and_soon(tmp_path: Path, fault: str) -> None:
    content, told = FAULTS[fault]
    cohorts = tmp_path / "cohorts"
    cohorts.mkdir()
    for path in (tmp_path / "params.yaml", cohorts / "mine.yaml"):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.monotonic()
    reads: list[Callable[[], object]] = [
        lambda: load_settings(tmp_path / "params.yaml"),
        lambda: Workspace(tmp_path).cohort("mine"),
    ]
    if fault not in FAULTS_OF_VALUES:
        reads.append(lambda: put_setting(tmp_path / "params.yaml", "dataset", "taken_down", ["x"]))
    for read in reads:
        with pytest.raises(SettingsError, match=told) as caught:
            read()
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 400 + len(str(tmp_path))
        assert str(tmp_path) in message
    assert time.monotonic() - started < 5


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "params.yaml")
    (tmp_path / "cohorts" / "mine.yaml").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"params\.yaml: not a regular file"):
        load_settings(tmp_path / "params.yaml")
    with pytest.raises(SettingsError, match=r"mine\.yaml: not a regular file"):
        Workspace(tmp_path).cohort("mine")


def test_aliases_within_reason_work(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("one: &one {x: 1, y: 2}\ntwo: {<<: *one, y: 3}\nthree: [*one, *one]\n")
    assert load_yaml(path) == {
        "one": {"x": 1, "y": 2},
        "two": {"x": 1, "y": 3},
        "three": [{"x": 1, "y": 2}] * 2,
    }


def test_a_cohort_of_many_queries_is_no_bomb(tmp_path: Path) -> None:
    (tmp_path / "cohorts").mkdir()
    lines = [f"- {{prompt: 'A piece of number {n}', seed: {n}}}" for n in range(10_000)]
    (tmp_path / "cohorts" / "many.yaml").write_text("queries:\n" + "\n".join(lines))
    assert len(Workspace(tmp_path).cohort("many").queries) == 10_000


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"\xef\xbb\xbfnoise: {draws: 3}\n")
    assert load_settings(tmp_path / "params.yaml").noise.draws == 3
