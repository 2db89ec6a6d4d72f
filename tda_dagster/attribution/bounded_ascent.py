"""Forgetting by gradient ascent that is bounded, while a retain loss is kept, arXiv:2605.17938.

What belongs here: the training loop and its two losses. What is forgotten (a query, a group of
training segments) and what is retained is said by the methods.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.gradients import draw_rows
from tda_dagster.attribution.sweep import mean_loss
from tda_dagster.attribution.unlearning import (
    Unlearned,
    UnlearningError,
    relative_norm,
    unlearned_name,
)
from tda_dagster.diffusion.latents import Conditioning, LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan, keyed_generator
from tda_dagster.diffusion.objective import Denoiser, denoising_loss
from tda_dagster.sections import Section

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Forgetting:
    """What is forgotten, and how its loss is measured, differentiable in the weights.

    `criterion` is the loss under fixed draws; `at_step` the loss that a step ascends, under draws
    from the seed and choices from the generator that it is given. `null` is L_null, the loss of a
    model that knows nothing. `settings` is where error messages say that settings are.
    """

    pieces: LatentSegments
    criterion: Callable[[Weights], Tensor]
    at_step: Callable[[Weights, int, torch.Generator], Tensor]
    null: float
    settings: str


class BoundedAscent(Section):
    """Settings of the training on mean L(retain batch) − λ·min(L(forgotten), L_null)."""

    layer_group: str = Field("transformer", description="weights that may change")
    ascent_weight: float = Field(0.2, gt=0, description="λ, the weight of the forgotten loss")
    learning_rate: float = Field(2e-4, gt=0, description="Adam's: a tenth of training's")
    bound: float = Field(0.95, gt=0, description="part of L_null at which unlearning stops")
    max_steps: int = Field(300, gt=0)
    batch_size: int = Field(8, gt=0, description="training segments per retain batch")
    draws: int = Field(8, gt=0, description="draws of what is forgotten per step")
    seed: int = 6

    def ascend(
        self, model: MusicModel, retain: LatentSegments, forgetting: Forgetting
    ) -> Unlearned:
        """Train a copy of the layer group until criterion ≥ `bound` · L_null, or for `max_steps`.

        The criterion is measured before every step. `stopped` says which end was reached. Raises
        UnlearningError when there is nothing to unlearn, or when the loss ceases to be finite.
        """
        names = model.layer_group(self.layer_group)
        base = model.weights(names)
        weights = {name: value.clone().requires_grad_(True) for name, value in base.items()}
        optimiser = torch.optim.Adam(list(weights.values()), lr=self.learning_rate)
        measured: list[float] = []
        stopped = ""
        while not stopped:
            with torch.no_grad():
                measured.append(float(forgetting.criterion(weights)))
            self._check(forgetting, measured)
            level = f"{self.bound:g} x {forgetting.null:.4f}"
            if measured[-1] >= self.bound * forgetting.null:
                stopped = (
                    f"bound reached after {len(measured) - 1} steps: query loss {measured[-1]:.4f} "
                    f">= {level}"
                )
            elif len(measured) > self.max_steps:
                stopped = (
                    f"max_steps ({self.max_steps}) done: query loss {measured[-1]:.4f} is below "
                    f"{level}"
                )
            else:
                self._step(model, retain, forgetting, weights, optimiser, len(measured))
        delta = {name: (weights[name].detach() - base[name]).contiguous() for name in names}
        norm = relative_norm(delta, base, forgetting.pieces)
        return Unlearned(delta, tuple(measured), norm, stopped)

    def _check(self, forgetting: Forgetting, measured: list[float]) -> None:
        """Raises UnlearningError when no delta can come of the losses measured so far."""
        name, loss = unlearned_name(forgetting.pieces), measured[-1]
        if not math.isfinite(loss):
            raise UnlearningError(
                f"{name}: its loss is {loss} after {len(measured) - 1} steps of MUCS; lower "
                f"{forgetting.settings}.learning_rate"
            )
        if len(measured) == 1 and loss >= self.bound * forgetting.null:
            raise UnlearningError(
                f"{name}: its loss, {loss:.4f}, is at the bound of MUCS before any step "
                f"({self.bound:g} x {forgetting.null:.4f}): the model does not know it; raise "
                f"{forgetting.settings}.bound or leave it out"
            )

    def _step(
        self,
        model: MusicModel,
        retain: LatentSegments,
        forgetting: Forgetting,
        weights: Weights,
        optimiser: torch.optim.Optimizer,
        number: int,
    ) -> None:
        key = forgetting.pieces.keys[0]
        generator = keyed_generator(self.seed, "retain", key, str(number))
        batch = chosen(retain, self.batch_size, generator)
        fresh = int(torch.randint(2**31, (), generator=generator))
        optimiser.zero_grad()
        kept = batch_loss(model, weights, batch, NoisePlan(draws=len(batch), seed=fresh))
        forgotten = forgetting.at_step(weights, fresh, generator)
        torch.autograd.backward(kept - self.ascent_weight * forgotten.clamp(max=forgetting.null))
        optimiser.step()


def chosen(segments: LatentSegments, count: int, generator: torch.Generator) -> LatentSegments:
    """At most `count` of the segments, drawn without replacement."""
    return segments.take(torch.randperm(len(segments), generator=generator)[:count].tolist())


def query_loss(
    model: MusicModel, weights: Weights, query: LatentSegments, plan: NoisePlan
) -> Tensor:
    """L(ẑ) under the weights: the mean over all draws, over valid frames, differentiable."""
    (rows,) = draw_rows(model, query, plan, plan.draws)
    return denoising_loss(
        _denoiser(model, weights),
        rows.latents,
        rows.conditioning,
        rows.noise,
        rows.timesteps,
        rows.mask,
    ).mean()


def batch_losses(
    model: MusicModel, weights: Weights, batch: LatentSegments, plan: NoisePlan
) -> Tensor:
    """The losses [n] of a batch, each of its n segments at another of the plan's n draws, so that
    a batch covers all noise levels; over valid frames, differentiable."""
    each = torch.arange(len(batch))
    return denoising_loss(
        _denoiser(model, weights),
        batch.latents.to(model.device),
        model.condition(batch.captions, batch.seconds_start, batch.seconds_total),
        plan.noise(batch.keys, model.latent_shape)[each, each].to(model.device),
        plan.timesteps().to(model.device),
        batch.frame_mask().to(model.device),
    )


def batch_loss(
    model: MusicModel, weights: Weights, batch: LatentSegments, plan: NoisePlan
) -> Tensor:
    """The mean of `batch_losses`."""
    return batch_losses(model, weights, batch, plan).mean()


def null_loss(model: MusicModel, query: LatentSegments, plan: NoisePlan, seed: int) -> float:
    """L_null: the query's loss under freshly initialised weights."""
    fresh = model.freshly_initialised(seed)
    before = model.weights(list(fresh))
    delta = {name: value - before[name] for name, value in fresh.items()}
    return mean_loss(model, query, plan, delta, mask_padding=True)


def _denoiser(model: MusicModel, weights: Weights) -> Denoiser:
    def denoise(noised: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return model.predict(weights, noised, timesteps, conditioning)

    return denoise
