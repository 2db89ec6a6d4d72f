"""MUCS: unlearning by bounded ascent against a retain loss, arXiv:2605.17938."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.gradients import draw_rows
from tda_dagster.attribution.methods.spec import Material, UnlearningSpec
from tda_dagster.attribution.sweep import mean_loss
from tda_dagster.attribution.unlearning import Unlearned, UnlearningError, relative_norm
from tda_dagster.diffusion.latents import Conditioning, LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan, keyed_generator
from tda_dagster.diffusion.objective import Denoiser, denoising_loss


class Mucs(UnlearningSpec):
    """Fine-tune a copy of the model on mean L(retain batch) − λ·min(L(ẑ), L_null).

    L_null is the query's loss under weights that were never trained: what a model loses that knows
    nothing of it. Ascent is bounded by it twice: the gradient of the query's term vanishes beyond
    L_null, and training stops as soon as L(ẑ) ≥ `bound` · L_null, or after `max_steps`.

    The authors' code (github.com/sony/mucs) clamps each draw's loss where this clamps their mean;
    it measures the criterion on the step's own draws, takes L_null over training data under the
    model's own initialisation, and leaves attention and biases as they are.
    """

    method: Literal["mucs"] = "mucs"
    layer_group: str = Field("transformer", description="weights that may change")
    ascent_weight: float = Field(0.2, gt=0, description="λ, the weight of the query's loss")
    learning_rate: float = Field(2e-4, gt=0, description="Adam's: a tenth of training's")
    bound: float = Field(0.95, gt=0, description="part of L_null at which unlearning stops")
    max_steps: int = Field(300, gt=0)
    batch_size: int = Field(8, gt=0, description="training segments per retain batch")
    draws: int = Field(8, gt=0, description="draws of the query per step")
    seed: int = 6

    @property
    def unlearning_forwards(self) -> int:
        return self.max_steps * (3 * (self.batch_size + self.draws) + self.draws)

    def unlearn(self, material: Material, query: LatentSegments) -> Unlearned:
        """The criterion is measured before every step under one fixed plan of `draws` draws, so
        that it does not stop on a lucky draw. `stopped` says which end was reached. Raises
        UnlearningError when there is nothing to unlearn, or when the loss ceases to be finite."""
        model = material.model
        names = model.layer_group(self.layer_group)
        base = model.weights(names)
        weights = {name: value.clone().requires_grad_(True) for name, value in base.items()}
        plan = NoisePlan(draws=self.draws, seed=self.seed)
        null = self._null_loss(model, query, plan)
        optimiser = torch.optim.Adam(list(weights.values()), lr=self.learning_rate)
        measured: list[float] = []
        stopped = ""
        while not stopped:
            with torch.no_grad():
                measured.append(float(_query_loss(model, weights, query, plan)))
            self._check(query, measured, null)
            if measured[-1] >= self.bound * null:
                stopped = (
                    f"bound reached after {len(measured) - 1} steps: query loss {measured[-1]:.4f} "
                    f">= {self.bound:g} x {null:.4f}"
                )
            elif len(measured) > self.max_steps:
                stopped = (
                    f"max_steps ({self.max_steps}) done: query loss {measured[-1]:.4f} is below "
                    f"{self.bound:g} x {null:.4f}"
                )
            else:
                self._step(material, query, weights, null, optimiser, len(measured))
        delta = {name: (weights[name].detach() - base[name]).contiguous() for name in names}
        return Unlearned(delta, tuple(measured), relative_norm(delta, base, query), stopped)

    def _check(self, query: LatentSegments, measured: list[float], null: float) -> None:
        """Raises UnlearningError when no delta can come of the losses measured so far."""
        name, loss = query.segment_ids[0], measured[-1]
        if not math.isfinite(loss):
            raise UnlearningError(
                f"query {name}: its loss is {loss} after {len(measured) - 1} steps of MUCS; lower "
                "method_settings.mucs.learning_rate"
            )
        if len(measured) == 1 and loss >= self.bound * null:
            raise UnlearningError(
                f"query {name}: its loss, {loss:.4f}, is at the bound of MUCS before any step "
                f"({self.bound:g} x {null:.4f}): the model does not know it; raise "
                "method_settings.mucs.bound or leave the query out"
            )

    def _step(
        self,
        material: Material,
        query: LatentSegments,
        weights: Mapping[str, Tensor],
        null: float,
        optimiser: torch.optim.Optimizer,
        number: int,
    ) -> None:
        generator = keyed_generator(self.seed, "retain", query.keys[0], str(number))
        chosen = torch.randperm(len(material.train), generator=generator)[: self.batch_size]
        retain = material.train.take(chosen.tolist())
        fresh = int(torch.randint(2**31, (), generator=generator))
        optimiser.zero_grad()
        kept = _retain_loss(
            material.model, weights, retain, NoisePlan(draws=len(retain), seed=fresh)
        )
        forgotten = _query_loss(
            material.model, weights, query, NoisePlan(draws=self.draws, seed=fresh)
        )
        torch.autograd.backward(kept - self.ascent_weight * forgotten.clamp(max=null))
        optimiser.step()

    def _null_loss(self, model: MusicModel, query: LatentSegments, plan: NoisePlan) -> float:
        """L_null: the query's loss under freshly initialised weights."""
        fresh = model.freshly_initialised(self.seed)
        before = model.weights(list(fresh))
        delta = {name: value - before[name] for name, value in fresh.items()}
        return mean_loss(model, query, plan, delta, mask_padding=True)


def _query_loss(
    model: MusicModel, weights: Mapping[str, Tensor], query: LatentSegments, plan: NoisePlan
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


def _retain_loss(
    model: MusicModel, weights: Mapping[str, Tensor], retain: LatentSegments, plan: NoisePlan
) -> Tensor:
    """The mean loss of a batch, each of its n segments at another of the plan's n draws, so that a
    batch covers all noise levels."""
    each = torch.arange(len(retain))
    return denoising_loss(
        _denoiser(model, weights),
        retain.latents.to(model.device),
        model.condition(retain.captions, retain.seconds_start, retain.seconds_total),
        plan.noise(retain.keys, model.latent_shape)[each, each].to(model.device),
        plan.timesteps().to(model.device),
        retain.frame_mask().to(model.device),
    ).mean()


def _denoiser(model: MusicModel, weights: Mapping[str, Tensor]) -> Denoiser:
    def denoise(noised: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return model.predict(weights, noised, timesteps, conditioning)

    return denoise
