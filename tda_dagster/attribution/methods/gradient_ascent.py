"""Plain gradient ascent: what unlearning is without Fisher information."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from tda_dagster.attribution.gradients import mean_gradient
from tda_dagster.attribution.methods.spec import Family, Material, UnlearningSpec
from tda_dagster.attribution.sweep import mean_loss
from tda_dagster.attribution.unlearning import (
    Unlearned,
    UnlearningError,
    relative_norm,
    unlearn,
)
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.settings import UnlearningSettings

_DOUBLINGS, _BISECTIONS = 40, 10
"""The length is bracketed by doubling and then halved in on, to 2⁻¹⁰ of the first length that is
long enough; how near the loss comes is told by `stopped`."""


class GradientAscent(UnlearningSpec):
    """The negative control: a step along ∇L(ẑ), as long as it takes to raise the query's loss by as
    much as FIM unlearning with the same settings raises it. Only the direction differs, so the two
    are compared at equal forgetting of the query."""

    method: Literal["gradient_ascent"] = "gradient_ascent"
    reads: ClassVar[tuple[str, ...]] = ("model", "fisher")
    family: ClassVar[Family] = "control"
    unlearning: UnlearningSettings

    @property
    def unlearning_forwards(self) -> int:
        options = self.unlearning
        return options.draws * (3 * options.steps + 3 + _BISECTIONS + 4)

    def unlearn(self, material: Material, query: LatentSegments) -> Unlearned:
        """θ₀ + s·∇L(ẑ, θ₀), with s found by bisection under the draws the gradient is averaged
        over. Raises UnlearningError when FIM unlearning does not raise the query's loss, or when
        no length along the gradient does."""
        model, options = material.model, self.unlearning
        plan = NoisePlan(draws=options.draws, seed=options.seed)
        loss = mean_loss(model, query, plan, mask_padding=options.mask_padding)

        def rise(delta: Mapping[str, Tensor]) -> float:
            return mean_loss(model, query, plan, delta, mask_padding=options.mask_padding) - loss

        wanted = rise(unlearn(model, query, material.fisher, **dict(options)).delta)
        if wanted <= 0:
            raise UnlearningError(
                f"query {query.segment_ids[0]}: FIM unlearning changes its loss by {wanted:.3g}, "
                "which is no rise to match; lower unlearning.learning_rate"
            )
        names = model.layer_group(options.layer_group)
        gradient, _ = mean_gradient(
            model, names, query, plan, mask_padding=options.mask_padding, batch_size=16
        )

        def step(length: float) -> dict[str, Tensor]:
            return {name: (length * g.double()).float() for name, g in gradient.items()}

        # To first order the loss rises by s·‖∇L‖².
        slope = sum(float(g.double().square().sum()) for g in gradient.values())
        low, high = 0.0, wanted / slope
        for _ in range(_DOUBLINGS):
            if rise(step(high)) >= wanted:
                break
            low, high = high, 2 * high
        else:
            raise UnlearningError(
                f"query {query.segment_ids[0]}: no step along its gradient raises its loss by "
                f"{wanted:.3g}, as FIM unlearning does; lower unlearning.learning_rate"
            )
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if rise(step(middle)) >= wanted else (middle, high)
        delta = step(high)
        return Unlearned(
            delta,
            (loss,),
            relative_norm(delta, model.weights(names), query),
            f"query loss raised by {rise(delta):.4g}, as by FIM unlearning ({wanted:.4g})",
        )
