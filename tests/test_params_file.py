"""One setting changes in params.yaml, and nothing else of the text."""

from pathlib import Path

import pytest
import yaml

from tda_dagster.params_file import put_setting

ROOT = Path(__file__).parents[1]
TRACKS = ["b", "no: 7", 'a "quoted" ü', "# no comment"]


def test_the_shipped_settings_keep_every_comment(tmp_path: Path) -> None:
    before = (ROOT / "params.yaml").read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    path.write_text(before, encoding="utf-8")
    for tracks in (["a"], TRACKS):
        put_setting(path, "dataset", "taken_down", tracks)
    after = path.read_text(encoding="utf-8")
    wanted = yaml.safe_load(before)
    wanted["dataset"]["taken_down"] = TRACKS
    assert yaml.safe_load(after) == wanted
    lines = zip(before.splitlines(), after.splitlines(), strict=True)
    ((old, new),) = [(old, new) for old, new in lines if old != new]
    assert new.endswith(old.partition("[]")[2])


@pytest.mark.parametrize(
    "before",
    [
        "",
        "# nothing yet\n",
        "methods: [timbre]  # one",
        "dataset:\n  seed: 3  # why\n\n  # a word\n  min_seconds: 1\nmethods: [timbre]\n",
        "dataset: {seed: 3, min_seconds: 1}  # short\n",
        "dataset: {}\n",
        "dataset:\nmethods: [timbre]\n",
        "dataset:\n  taken_down:\n    - x\n    - y\n\n# next\nmethods: [timbre]\n",
        "dataset:\n  taken_down:\n  - x\n  seed: 3\n",
        "dataset:\n  taken_down: [x,\n    y]  # two\n  seed: 3\n",
        "{dataset: {seed: 3}, methods: [timbre]}\n",
        "{}\n",
    ],
)
def test_whatever_the_style(tmp_path: Path, before: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(before, encoding="utf-8")
    put_setting(path, "dataset", "taken_down", TRACKS)
    after = path.read_text(encoding="utf-8")
    wanted = yaml.safe_load(before) or {}
    wanted["dataset"] = (wanted.get("dataset") or {}) | {"taken_down": TRACKS}
    assert yaml.safe_load(after) == wanted
    comments = [line.partition("#")[2] for line in before.splitlines() if "#" in line]
    assert all(comment in after for comment in comments)
