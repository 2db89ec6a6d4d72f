"""Daunce: attribution by what losses do together in slightly perturbed models."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from tda_dagster.attribution.bounded_ascent import Weights, batch_losses, chosen
from tda_dagster.attribution.methods.spec import Family, JointScoringSpec, Material
from tda_dagster.attribution.methods.tasks import LossSweep, Result, Task, Work, losses_of
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.noise import NoisePlan, keyed_generator
from tda_dagster.errors import TdaError
from tda_dagster.sections import Section
from tda_dagster.settings import NoiseSettings


class PerturbedTraining(Section):
    """Settings of the training that perturbs a model."""

    layer_group: str = Field("transformer", description="weights that may change")
    learning_rate: float = Field(2e-4, gt=0, description="Adam's: a tenth of training's")
    steps: int = Field(60, gt=0)
    batch_size: int = Field(32, gt=0, description="training segments per step")
    seed: int = 9


class PerturbedModel(Task):
    """The delta of a model that is trained on with the losses of segments weighted by chance.

    The model of number k takes steps of Adam from θ₀ on the mean of (1 + sign·ξ_ik)·L(zᵢ), with
    ξ_ik = ±1 for each segment. The two models of one number differ in `sign` alone: they meet the
    same batches and draws.
    """

    task: Literal["perturbed_model"] = "perturbed_model"
    reads: ClassVar[tuple[str, ...]] = ("model", "train")
    training: PerturbedTraining
    number: int
    sign: Literal[1, -1]

    def run(
        self,
        material: Material,
        segments: LatentSegments | None,
        delta: Weights | None,
        path: Path,
    ) -> None:
        """Write the delta as safetensors. Raises TdaError when it is not finite."""
        model, options = material.model, self.training
        names = model.layer_group(options.layer_group)
        base = model.weights(names)
        weights = {name: value.clone().requires_grad_(True) for name, value in base.items()}
        optimiser = torch.optim.Adam(list(weights.values()), lr=options.learning_rate)
        for step in range(options.steps):
            generator = keyed_generator(options.seed, "perturbed", str(self.number), str(step))
            batch = chosen(material.train, options.batch_size, generator)
            fresh = int(torch.randint(2**31, (), generator=generator))
            plan = NoisePlan(draws=len(batch), seed=fresh)
            losses = batch_losses(model, weights, batch, plan)
            optimiser.zero_grad()
            torch.autograd.backward(((1 + self._signs(batch).to(losses)) * losses).mean())
            optimiser.step()
        moved = {name: (weights[name].detach() - base[name]).cpu() for name in names}
        if not all(bool(value.isfinite().all()) for value in moved.values()):
            raise TdaError(
                f"perturbed model {self.number}: its weights are not finite after {options.steps} "
                "steps; lower method_settings.daunce.training.learning_rate"
            )
        save_file({name: value.contiguous() for name, value in moved.items()}, path)

    def _signs(self, batch: LatentSegments) -> Tensor:
        """sign·ξ of each segment of the batch, whatever else is in it: float32 [n]."""
        key = (self.training.seed, "sign", str(self.number))
        drawn = [
            torch.randint(0, 2, (), generator=keyed_generator(*key, segment))
            for segment in batch.keys
        ]
        return self.sign * (2 * torch.stack(drawn).float() - 1)


class Daunce(JointScoringSpec):
    """The covariance of a query's loss and a segment's loss over slightly perturbed models
    (Daunce, arXiv:2505.23223): what is learnt together is forgotten together.

    To first order a perturbed model is at θ₀ − H⁻¹Σξᵢgᵢ, and the covariance is g_q·H⁻¹FH⁻¹·gᵢ with
    F = Σgᵢgᵢᵀ: influence under the whole curvature, with no matrix of it. Here the models come in
    pairs with opposite signs. Half the difference of a pair's losses keeps what the signs do, and
    what training on does to all models cancels. The score is the mean over pairs of the product of
    the query's and the segment's half difference, which is the covariance as their mean is 0.

    Cost in forward passes, with N training segments, Q queries and K draws: 2·pairs·(3·steps·
    batch_size + N·K), once for all queries and cohorts, and 2·pairs·Q·K for the queries.
    """

    method: Literal["daunce"] = "daunce"
    family: ClassVar[Family] = "gradient"
    training: PerturbedTraining = PerturbedTraining()
    pairs: int = Field(20, gt=1, description="pairs of perturbed models")
    mask_padding: bool = Field(False, description="M_L: mask padding in the losses")
    noise: NoiseSettings

    @property
    def label(self) -> str:
        options = self.training
        return (
            f"Daunce, {options.layer_group.replace('_', ' ')}, {self.pairs} pairs of "
            f"{options.steps} steps"
        )

    def forwards(
        self, queries: int, segments: int, group_sizes: Callable[[str], Sequence[int]]
    ) -> int:
        training = 3 * self.training.steps * self.training.batch_size
        return 2 * self.pairs * (training + (queries + segments) * self.noise.draws)

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        return self.samples(material, queries).mean(dim=0)

    def samples(self, material: Material, queries: LatentSegments) -> Tensor:
        """One per pair: the pairs are independent, so that their spread is the standard error."""
        models = material.results(
            [
                Work(
                    f"perturbed|{number}|{sign:+d}",
                    PerturbedModel(training=self.training, number=number, sign=sign),
                )
                for number in range(self.pairs)
                for sign in (1, -1)
            ]
        )
        asked, *segments = self._half_differences(material, models, [queries, *material.shards()])
        return asked.unsqueeze(2) * torch.cat(segments, dim=1).unsqueeze(1)

    def _half_differences(
        self, material: Material, models: list[Result], parts: list[LatentSegments]
    ) -> list[Tensor]:
        """Half of what the losses of each part's segments differ by between the models of a pair,
        averaged over draws: float64 [pairs, segments] per part."""
        task = LossSweep(noise=self.noise)
        swept = material.results(
            [
                Work(f"perturbed|{number}|{part.segment_ids[0]}", task, part, model)
                for part in parts
                for number, model in enumerate(models)
            ]
        )
        column = "loss_valid" if self.mask_padding else "loss"
        losses = [losses_of(result, column).mean(dim=1) for result in swept]
        count = len(models)
        by_part = [
            torch.stack(losses[number * count : (number + 1) * count])
            for number in range(len(parts))
        ]
        return [(part[0::2] - part[1::2]) / 2 for part in by_part]
