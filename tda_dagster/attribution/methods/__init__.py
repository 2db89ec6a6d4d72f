"""The attribution methods, one file each, and the registry they are found in.

A new method is a file in this folder and a line in `METHODS`; CONTRIBUTING.md shows how.
"""

import itertools
import json
import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from tda_dagster.attribution.methods.spec import (
    JointScoringSpec,
    Material,
    MethodSpec,
    ScoringSpec,
    UnlearningSpec,
)
from tda_dagster.quoting import shown
from tda_dagster.settings import (
    ExperimentSettings,
    Settings,
    SettingsError,
    overridden,
    validated,
)

__all__ = [
    "METHODS",
    "JointScoringSpec",
    "Material",
    "MethodSpec",
    "ScoringSpec",
    "UnlearningSpec",
    "experiment",
    "experiment_specs",
    "method_class",
    "method_specs",
    "read_spec",
]

_HERE = "tda_dagster.attribution.methods"
_PEERS = "tda_dagster.bench.peers"

_MOST_RUNS = 10_000
"""Of one experiment; Dagster becomes slow with more partition keys."""

METHODS = {
    "fim_unlearning": f"{_HERE}.fim_unlearning:FimUnlearning",
    "kernel_unlearning": f"{_HERE}.kernel_unlearning:KernelUnlearning",
    "unlearning_ensemble": f"{_HERE}.unlearning_ensemble:UnlearningEnsemble",
    "abu": f"{_HERE}.abu:Abu",
    "gradient_ascent": f"{_HERE}.gradient_ascent:GradientAscent",
    "mucs": f"{_HERE}.mucs:Mucs",
    "catalogue_unlearning": f"{_HERE}.catalogue_unlearning:CatalogueUnlearning",
    "catalogue_mucs": f"{_HERE}.catalogue_mucs:CatalogueMucs",
    "daunce": f"{_HERE}.daunce:Daunce",
    "timbre": f"{_HERE}.timbre:Timbre",
    "melody": f"{_HERE}.melody:Melody",
    "clap": f"{_HERE}.clap:Clap",
    "caption": f"{_HERE}.caption:Caption",
    "lpips": f"{_HERE}.lpips:Lpips",
    "representer": f"{_HERE}.representer:Representer",
    "grad_dot": f"{_HERE}.grad_dot:GradDot",
    "grad_cosine": f"{_HERE}.grad_cosine:GradCosine",
    "tracin": f"{_HERE}.tracin:TracIn",
    "trak": f"{_HERE}.trak:Trak",
    "d_trak": f"{_HERE}.d_trak:DTrak",
    "das": f"{_HERE}.das:Das",
    "ekfac_influence": f"{_HERE}.ekfac_influence:EkfacInfluence",
    "fisher_influence": f"{_HERE}.fisher_influence:FisherInfluence",
    "kernel_influence": f"{_HERE}.kernel_influence:KernelInfluence",
    "trajectory_influence": f"{_HERE}.trajectory_influence:TrajectoryInfluence",
    "random": f"{_HERE}.random:Random",
    "traker_trak": f"{_PEERS}.traker:TrakerTrak",
    "dattri_trak": f"{_PEERS}.dattri:DattriTrak",
    "dattri_tracin": f"{_PEERS}.dattri:DattriTracIn",
    "kronfluence": f"{_PEERS}.kronfluence:Kronfluence",
    "bergson": f"{_PEERS}.bergson:Bergson",
}
"""Name → where its class is; a class is imported when its method is used."""


def method_class(name: str) -> type[MethodSpec]:
    """The class of a method; raises SettingsError listing the methods there are."""
    if name not in METHODS:
        raise SettingsError(
            f"methods: {shown(name)} is not an attribution method; there are: {', '.join(METHODS)}"
        )
    module, _, attribute = METHODS[name].partition(":")
    found: type[MethodSpec] = getattr(import_module(module), attribute)
    return found


def method_specs(settings: Settings) -> tuple[MethodSpec, ...]:
    """The attribution methods of the main job, each with all its settings."""
    return tuple(method_class(name).of(settings) for name in settings.methods)


def experiment(settings: Settings, name: str) -> ExperimentSettings:
    """An experiment of the settings; raises SettingsError listing those there are."""
    if name not in settings.experiments:
        known = ", ".join(settings.experiments) or "none"
        raise SettingsError(
            f"experiments: there is no experiment {shown(name)}; there are: {known}"
        )
    return settings.experiments[name]


def experiment_specs(settings: Settings, name: str) -> tuple[MethodSpec, ...]:
    """The method specs of an experiment: its methods under every combination of its grid.

    A method that does not depend on an axis of the grid appears once. Raises SettingsError, before
    anything is combined, for more than 10,000 combinations and for an axis without values.
    """
    chosen = experiment(settings, name)
    _check_grid(chosen, f"experiments.{name}")
    specs: dict[str, MethodSpec] = {}
    for block in chosen.grid:
        for values in itertools.product(*block.values()):
            changes = chosen.settings | dict(zip(block, values, strict=True))
            changed = overridden(settings, changes, f"experiments.{name}")
            for method in chosen.methods:
                spec = method_class(method).of(changed)
                specs.setdefault(spec.method_id, spec)
    return tuple(specs.values())


def _check_grid(chosen: ExperimentSettings, source: str) -> None:
    for block in chosen.grid:
        for key, values in block.items():
            if not values:
                raise SettingsError(
                    f"{source}.grid: {shown(key)} has no values, so there is nothing to run; give "
                    "it one, or leave it out"
                )
    combinations = sum(math.prod(map(len, block.values())) for block in chosen.grid)
    runs = combinations * len(chosen.methods) * len(chosen.cohorts)
    if runs > _MOST_RUNS:
        raise SettingsError(
            f"{source}: cohorts × methods × combinations of the grid are {len(chosen.cohorts)} × "
            f"{len(chosen.methods)} × {_count(combinations)} = {_count(runs)} runs; at most "
            f"{_MOST_RUNS:,} are allowed: leave values out of the grid, or split it into blocks"
        )


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**15 else f"about 10^{int(math.log10(number))}"


def read_spec(text: str | bytes) -> MethodSpec:
    """A method spec from its JSON, as `model_dump_json` wrote it."""
    raw: Mapping[str, Any] = json.loads(text)
    spec: MethodSpec = validated(method_class(raw["method"]), raw, "method spec")
    return spec
