"""MUCS: unlearning by bounded ascent against a retain loss, arXiv:2605.17938."""

from typing import Literal

from tda_dagster.attribution.bounded_ascent import (
    BoundedAscent,
    Forgetting,
    null_loss,
    query_loss,
)
from tda_dagster.attribution.methods.spec import Material, UnlearningSpec
from tda_dagster.attribution.unlearning import Unlearned
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan


class Mucs(UnlearningSpec, BoundedAscent):
    """Fine-tune a copy of the model on mean L(retain batch) − λ·min(L(ẑ), L_null).

    L_null is the query's loss under weights that were never trained: what a model loses that knows
    nothing of it. Ascent is bounded by it twice: the gradient of the query's term vanishes beyond
    L_null, and training stops as soon as L(ẑ) ≥ `bound` · L_null, or after `max_steps`.

    The authors' code (github.com/sony/mucs) clamps each draw's loss where this clamps their mean;
    it measures the criterion on the step's own draws, takes L_null over training data under the
    model's own initialisation, and leaves attention and biases as they are.
    """

    method: Literal["mucs"] = "mucs"

    @property
    def unlearning_forwards(self) -> int:
        return self.max_steps * (3 * (self.batch_size + self.draws) + self.draws)

    def unlearn(self, material: Material, query: LatentSegments) -> Unlearned:
        """The criterion is measured under one fixed plan of `draws` draws, so that it does not
        stop on a lucky draw. Raises UnlearningError as `BoundedAscent.ascend` does."""
        model = material.model
        plan = NoisePlan(draws=self.draws, seed=self.seed)
        forgetting = Forgetting(
            query,
            criterion=lambda weights: query_loss(model, weights, query, plan),
            at_step=lambda weights, seed, _: query_loss(
                model, weights, query, NoisePlan(draws=self.draws, seed=seed)
            ),
            null=self._null_loss(model, query, plan),
            settings=f"method_settings.{self.method}",
        )
        return self.ascend(model, material.train, forgetting)

    def _null_loss(self, model: MusicModel, query: LatentSegments, plan: NoisePlan) -> float:
        return null_loss(model, query, plan, self.seed)
