"""The support of methods, as measured and as chosen."""

from pathlib import Path

import pytest

from tda_dagster.attribution import support
from tda_dagster.attribution.methods import METHODS
from tda_dagster.attribution.support import (
    UNMEASURED,
    Support,
    measured_support,
    support_of,
    write_support,
)


def test_the_package_has_values_of_known_methods_within_their_ranges() -> None:
    for method, found in measured_support().items():
        assert method in METHODS
        assert 0 <= found.support <= 1
        assert found.spread is not None
        assert found.spread > 0


def test_what_is_written_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"b": Support(0.5, 0.3), "a": Support(0.0, 0.4)}
    write_support(measured, tmp_path / "support.json")
    monkeypatch.setattr(support, "files", lambda _package: tmp_path)
    measured_support.cache_clear()
    try:
        assert measured_support() == measured
        assert support_of("b", None) == Support(0.5, 0.3)
        # A setting goes before what was measured; intervals are those that were measured.
        assert support_of("b", 0.9) == Support(0.9, 0.3)
        # What nobody has measured attributes nothing, unless a setting says so.
        assert support_of("c", None) == UNMEASURED == Support(0.0, None)
        assert support_of("c", 0.25) == Support(0.25, None)
    finally:
        measured_support.cache_clear()
