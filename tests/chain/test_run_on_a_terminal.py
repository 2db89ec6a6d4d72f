"""What a run shows on a terminal: one line per asset, whole, and nothing of the bars is left."""

import re
import shutil

import pytest
from chain.conftest import Study
from terminal_emulator import on_a_terminal

pytestmark = pytest.mark.slow

BEFORE = "tda run reference: reading the settings, starting Dagster…"


def test_a_run_on_a_terminal_leaves_whole_lines(copy: Study) -> None:
    for asset in ("unlearned", "attribution", "evaluation", "report"):
        for kind in ("refs", "heads"):
            shutil.rmtree(copy.root / "data" / "store" / kind / asset, ignore_errors=True)
    shown = on_a_terminal(copy.command("tda", "run"), cwd=copy.root, env=copy.environment)
    assert shown.status == 0, shown.lines[-10:]
    assert shown.first_s < 1.5  # of a machine that runs other tests
    assert shown.lines[0] == BEFORE
    assets = [line for line in shown.lines if line.startswith("  ✓ ")]
    assert all(re.fullmatch(r"  ✓ \w+/\w+ +(cached|\d+\.\d s)", line) for line in assets)
    assert len({line.split()[1] for line in assets}) == len(assets) == 21
    assert 5 < sum("cached" in line for line in assets) < 21
    text = "\n".join(line for line in shown.lines if not line.startswith("  ✓ "))
    assert not re.search(r"[━╸╺⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]|\d/\d+ \d:|left", text), text
    assert sum(line.startswith("reference-00") for line in shown.lines) == 2
