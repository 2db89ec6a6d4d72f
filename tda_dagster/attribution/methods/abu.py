"""Attribution by unlearning as its authors' code does it, noise by the batch."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.methods.spec import Family, JointScoringSpec, Material
from tda_dagster.attribution.unlearning import unlearn
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import keyed_generator
from tda_dagster.diffusion.objective import denoising_loss
from tda_dagster.settings import UnlearningSettings


class Abu(JointScoringSpec):
    """FIM unlearning with the loss sweep of arXiv:2406.09408's published code: 20 timesteps at
    equal distances from 0 on, the same for all, and noise that is drawn batch by batch from the
    batch's number.

    The noise that a segment meets thus depends on its place in the dataset and on the size of
    batches. As long as both losses are measured in the same batches they are paired all the
    same; `cached_batch_size` is that of the loss cache, and where it differs, as after a change of
    machine, the pairs are broken. The difference is what a plan keyed by segment is worth.
    """

    method: Literal["abu"] = "abu"
    family: ClassVar[Family] = "unlearning"
    unlearning: UnlearningSettings
    timesteps: int = Field(20, gt=0, description="at equal distances")
    batch_size: int = Field(64, gt=0, description="segments per batch of the sweep")
    cached_batch_size: int = Field(64, gt=0, description="the same of the loss cache")
    seed: int = 0

    @property
    def label(self) -> str:
        paired = "" if self.batch_size == self.cached_batch_size else ", another batch size"
        return f"AbU's own sweep{paired}"

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        model, train = material.model, material.train
        before = self._losses(model, train, self.cached_batch_size)
        rises = []
        for row in range(len(queries)):
            made = unlearn(model, queries.take([row]), material.fisher, **dict(self.unlearning))
            with model.shifted(made.delta):
                rises.append(self._losses(model, train, self.batch_size) - before)
        return torch.stack(rises)

    @torch.no_grad()
    def _losses(self, model: MusicModel, segments: LatentSegments, batch_size: int) -> Tensor:
        """The mean loss of every segment, float64 [segments]."""
        # t = 0 itself would be without noise.
        times = (torch.arange(self.timesteps) / self.timesteps).clamp(min=1e-4)
        means = []
        for number, start in enumerate(range(0, len(segments), batch_size)):
            batch = segments.take(range(start, min(start + batch_size, len(segments))))
            count = len(batch)
            noise = torch.randn(
                (count, self.timesteps, *model.latent_shape),
                generator=keyed_generator(self.seed, "batch", str(number)),
            )
            conditioning = model.condition(batch.captions, batch.seconds_start, batch.seconds_total)
            losses = [
                denoising_loss(
                    model,
                    batch.latents.to(model.device),
                    conditioning,
                    noise[:, k].to(model.device),
                    time.expand(count).to(model.device),
                )
                for k, time in enumerate(times)
            ]
            means.append(torch.stack(losses).double().mean(dim=0).cpu())
        return torch.cat(means)
