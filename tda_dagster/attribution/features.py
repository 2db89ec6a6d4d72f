"""Gradient features: what a piece pulls the weights towards, as one vector per piece.

What belongs here: the one producer of per-piece gradients that all gradient methods share, and
their random projection. How features are compared is `influence`'s business.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tda_dagster.attribution.gradients import per_example_gradients
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan, keyed_generator
from tda_dagster.diffusion.objective import (
    Objective,
    denoising_loss,
    prediction_energy,
    prediction_mean,
)
from tda_dagster.settings import GradientSettings

OBJECTIVES: dict[str, Objective] = {
    "loss": denoising_loss,
    "energy": prediction_energy,
    "mean": prediction_mean,
}
"""What gradients may be of, by the name that `objective` gives it."""

DRAW_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "equal": lambda gradients: gradients,
    "unit_norm": lambda gradients: torch.nn.functional.normalize(gradients, dim=1),
}
"""What becomes of the draws' gradients [draws, numbers] before they are averaged, by the name that
`draw_weights` gives it. Gradients at little noise are far longer than others, and without weights
they are nearly all of the average."""


class GradientSpec(GradientSettings):
    """The settings of gradient features, and what they are gradients of."""

    objective: Literal["loss", "energy", "mean"] = "loss"

    @property
    def label(self) -> str:
        """What tells two specs apart, for people."""
        of = [] if self.objective == "loss" else [f"of the {self.objective}"]
        words = [
            self.layer_group.replace("_", " "),
            f"t {self.timestep_min:g} to {self.timestep_max:g}",
        ]
        unit = ["draws of unit norm"] if self.draw_weights == "unit_norm" else []
        return ", ".join([*of, *words, f"{self.draws} draws", *unit])

    @property
    def plan(self) -> NoisePlan:
        """The draws that gradients are averaged over."""
        return NoisePlan(
            draws=self.draws,
            seed=self.seed,
            timestep_min=self.timestep_min,
            timestep_max=self.timestep_max,
        )

    def features(self, model: MusicModel, pieces: LatentSegments) -> Tensor:
        """The features of some pieces under a model, float32 [pieces, dimension]."""
        return self._averaged(self.draws, model, pieces)

    def by_draw(self, model: MusicModel, pieces: LatentSegments) -> Tensor:
        """What each draw has in them, float32 [draws, pieces, dimension]: their mean is
        `features`."""
        alone = self._averaged(1, model, pieces)
        return alone.reshape(len(pieces), self.draws, -1).transpose(0, 1)

    def _averaged(self, together: int, model: MusicModel, pieces: LatentSegments) -> Tensor:
        return gradient_features(
            model,
            model.layer_group(self.layer_group),
            pieces,
            self.plan,
            together=together,
            project=(
                whole if self.dimension is None else random_projection(self.dimension, self.seed)
            ),
            mask_padding=self.mask_padding,
            batch_size=self.batch_size,
            objective=OBJECTIVES[self.objective],
            weighted=DRAW_WEIGHTS[self.draw_weights],
        )


@dataclass(frozen=True)
class TrainingCheckpoint:
    """A stored checkpoint of a training: after `step` steps, the last of them at that rate."""

    step: int
    learning_rate: float


_HELD_BYTES = 256e6
"""About how much memory averaged gradients take before they are projected."""
_BLOCK = 8192
"""Weights whose part of the projection matrix is in memory at a time."""


def gradient_features(
    model: MusicModel,
    names: Sequence[str],
    pieces: LatentSegments,
    plan: NoisePlan,
    *,
    together: int,
    project: Callable[[Tensor], Tensor],
    mask_padding: bool,
    batch_size: int,
    objective: Objective = denoising_loss,
    weighted: Callable[[Tensor], Tensor] = DRAW_WEIGHTS["equal"],
) -> Tensor:
    """The gradient of every piece's objective in the named weights, averaged over `together` draws
    at a time and projected: float32 [pieces · draws / together, dimension] on CPU.

    `together` divides the draws of the plan; the averages of a piece's draws follow each other.
    Gradients of `batch_size` draws, and averages of about 256 MB, are in memory at a time. A
    piece's features depend neither on that nor on the other pieces (beyond rounding).
    """
    draws = len(plan.indices)
    numbers = model.parameter_count(names)
    averages = draws // together
    held = max(1, int(_HELD_BYTES / (4 * numbers * averages)))
    features = []
    for start in range(0, len(pieces), held):
        chunk = pieces.take(range(start, min(start + held, len(pieces))))
        mean = torch.zeros((len(chunk) * averages, numbers))
        row = 0
        for gradients in per_example_gradients(
            model,
            names,
            chunk,
            plan,
            mask_padding=mask_padding,
            batch_size=batch_size,
            objective=objective,
        ):
            flat = torch.cat([gradients[name].flatten(1) for name in names], dim=1).cpu()
            average = torch.arange(row, row + len(flat)) // together
            mean.index_add_(0, average, weighted(flat) / together)
            row += len(flat)
        features.append(project(mean))
    return torch.cat(features)


def whole(gradients: Tensor) -> Tensor:
    """No projection: the gradients themselves."""
    return gradients


def random_projection(dimension: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Projection of [n, numbers] onto `dimension` random directions with entries ±1/√dimension,
    which keeps inner products in expectation (Achlioptas, 2003).

    The directions depend on the seed and on the weights' places alone; of their matrix one block of
    weights is made at a time.
    """

    def project(gradients: Tensor) -> Tensor:
        projected = torch.zeros((len(gradients), dimension))
        for start, directions in _blocks(gradients.shape[1], dimension, seed):
            projected += gradients[:, start : start + len(directions)] @ directions
        return projected

    return project


def _blocks(numbers: int, dimension: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, numbers, _BLOCK):
        size = min(_BLOCK, numbers - start)
        generator = keyed_generator(seed, "projection", str(start))
        signs = torch.randint(0, 2, (size, dimension), generator=generator, dtype=torch.int8)
        yield start, (2 * signs - 1).float() / dimension**0.5
