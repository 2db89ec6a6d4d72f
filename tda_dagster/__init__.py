"""Which training tracks, and whose, shaped this generated piece of music.

The names below are the library without Dagster: open a model and a dataset, estimate the Fisher
information, unlearn a piece, rank the segments. README.md shows them in five lines.
"""

import os
from importlib import import_module
from typing import Any

# Before torch is imported: its threads otherwise spin while they wait, which makes small steps
# many times slower as soon as the cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_PUBLIC = {
    "NoisePlan": "tda_dagster.diffusion.noise",
    "estimate_fisher": "tda_dagster.attribution.fisher",
    "open_dataset": "tda_dagster.api",
    "open_model": "tda_dagster.diffusion.opening",
    "rank": "tda_dagster.api",
    "sweep": "tda_dagster.attribution.sweep",
    "unlearn": "tda_dagster.attribution.unlearning",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    # Lazily, so that `tda --help` does not wait for torch.
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
