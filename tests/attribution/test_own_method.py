"""The method that CONTRIBUTING.md adds works as it says there."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tda_dagster.attribution.methods import METHODS, ScoringSpec, method_specs
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.settings import Settings

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example's file where Python finds it, and its line in the registry."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    ((name, place),) = re.findall(r'^    "(\w+)": "([\w.:]+)",$', PAGE.read_text(), re.MULTILINE)
    (tmp_path / "level.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert place == f"tda_dagster.attribution.methods.{name}:Level"
    monkeypatch.setitem(METHODS, name, "level:Level")
    yield name
    sys.modules.pop("level", None)


def test_the_documented_method_scores_and_takes_settings(
    level: str, make_segments: Callable[..., LatentSegments]
) -> None:
    settings = Settings(methods=(level,), method_settings={level: {"exponent": 2.0}})
    (spec,) = method_specs(settings)
    assert isinstance(spec, ScoringSpec)
    assert spec.method_id.startswith("level-")
    queries, segments = make_segments(2, seed=1), make_segments(5)
    scores = spec.score(None, queries, segments)  # type: ignore[arg-type]  # it reads nothing
    energy = [
        float(s.latents[i].square().mean().log()) for s in (queries, segments) for i in (0, 1)
    ]
    assert scores.shape == (2, 5)
    assert float(scores[1, 0]) == pytest.approx(-((energy[1] - energy[2]) ** 2), rel=1e-4)
    assert torch.equal(scores[:, 1:3], spec.score(None, queries, segments.take([1, 2])))  # type: ignore[arg-type]
