"""Unlearning a query or a group of segments, regularised by Fisher information."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tda_dagster.attribution.fisher import FisherSum
from tda_dagster.attribution.gradients import mean_gradient
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.errors import TdaError


class UnlearningError(TdaError):
    """An unlearning that did not do what unlearning is for."""


@dataclass(frozen=True)
class Unlearned:
    """The result of unlearning: the weight delta θ\\ẑ − θ₀ and how it came about.

    `delta` is name → float32 like the parameter; `query_losses` the loss of what is unlearned
    before each step, under that step's draws; `relative_norm` is ‖Δ‖/‖θ₀‖ over the changed
    parameters; `stopped` says why there were no more steps.
    """

    delta: dict[str, Tensor]
    query_losses: tuple[float, ...]
    relative_norm: float
    stopped: str = "all steps done"

    def save(self, path: Path) -> None:
        header: dict[str, Any] = {
            "query_losses": self.query_losses,
            "relative_norm": self.relative_norm,
            "stopped": self.stopped,
        }
        save_file(
            {n: t.contiguous() for n, t in self.delta.items()},
            path,
            metadata={"unlearning": json.dumps(header)},
        )

    @classmethod
    def load(cls, path: Path) -> "Unlearned":
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["unlearning"])
            delta = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return cls(delta, tuple(header["query_losses"]), header["relative_norm"], header["stopped"])


def unlearn(
    model: MusicModel,
    query: LatentSegments,
    fisher: FisherSum,
    *,
    layer_group: str = "transformer",
    learning_rate: float,
    steps: int = 1,
    draws: int,
    damping: float,
    mask_padding: bool = True,
    seed: int,
    batch_size: int = 16,
) -> Unlearned:
    """Unlearn one query, or a group of segments, by FIM-regularised gradient ascent on its loss.

    Minimises −L(ẑ, θ) + (N/2)(θ−θ₀)ᵀF(θ−θ₀) by steps θ ← θ + (η/N)·(F + λF̄)⁻¹∇L(ẑ, θ)
    (arXiv:2506.18312, section 3; arXiv:2406.09408, eq. 5), with N the number of training
    segments, F the diagonal Fisher information, F̄ its mean over the layer group and λ the
    relative `damping`. ∇L(ẑ) is averaged over `draws` draws of each segment, fresh at each step;
    the loss of a group is the mean over its segments. `mask_padding` is the paper's M_U. The model
    itself is left at θ₀.

    Raises UnlearningError when the loss is not finite, or the step zero or not finite.
    """
    names = model.layer_group(layer_group)
    inverse = {
        name: value.to(model.device)
        for name, value in inverse_curvature(fisher.select(names).diagonal(), damping).items()
    }
    rate = learning_rate / fisher.segments
    base = model.weights(names)
    delta = {name: torch.zeros_like(value) for name, value in base.items()}
    losses = []
    for step in range(steps):
        plan = NoisePlan(draws=draws, seed=seed + step, mode="per_segment")
        with model.shifted(delta):
            gradient, loss = mean_gradient(
                model, names, query, plan, mask_padding=mask_padding, batch_size=batch_size
            )
        if not math.isfinite(loss):
            cause = (
                f"after {step} steps; lower unlearning.learning_rate"
                if step
                else "under the base model: its weights, or the query, hold numbers that are not "
                "finite"
            )
            raise UnlearningError(f"{unlearned_name(query)}: its loss is {loss} {cause}")
        losses.append(loss)
        delta = {
            name: delta[name] + (rate * inverse[name] * gradient[name].double()).float()
            for name in names
        }
    return Unlearned(delta, tuple(losses), relative_norm(delta, base, query))


def inverse_curvature(diagonal: Mapping[str, Tensor], damping: float) -> dict[str, Tensor]:
    """(F + λF̄)⁻¹ per parameter, float64; F̄ is the mean of F over all given parameters."""
    total = sum(float(f.sum()) for f in diagonal.values())
    mean = total / sum(f.numel() for f in diagonal.values())
    floor = damping * mean
    if floor == 0 and any(bool((f == 0).any()) for f in diagonal.values()):
        raise UnlearningError(
            f"damping: {damping} leaves weights whose Fisher information is zero without a finite "
            "step; set unlearning.damping above 0, and check that not all of it is zero"
        )
    return {name: 1.0 / (f + floor) for name, f in diagonal.items()}


def relative_norm(
    delta: Mapping[str, Tensor], base: Mapping[str, Tensor], query: LatentSegments
) -> float:
    """‖Δ‖/‖θ₀‖ over the changed parameters; raises UnlearningError when it is 0 or not finite."""
    moved = math.sqrt(sum(float(d.double().square().sum()) for d in delta.values()))
    size = math.sqrt(sum(float(b.double().square().sum()) for b in base.values()))
    if not 0 < moved < float("inf"):
        raise UnlearningError(
            f"{unlearned_name(query)}: unlearning moved the weights by {moved}; lower or "
            "raise unlearning.learning_rate, or raise unlearning.damping"
        )
    return moved / size


def unlearned_name(pieces: LatentSegments) -> str:
    """What error messages call a query, or a group by its first segment and their number."""
    first, *rest = pieces.segment_ids
    return f"group of {first} and {len(rest)} more segments" if rest else f"query {first}"
