"""What the methods of other libraries share: a dataset, and the loss of its rows.

A row carries all that the loss of a piece is computed from, the draws (timestep, noise) and the
conditioning too, so that a library that knows nothing of diffusion differentiates what our methods
do, and no row's loss depends on its place in a batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import field_validator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tda_dagster.attribution.ekfac import linear_layers
from tda_dagster.attribution.features import OBJECTIVES, GradientSpec
from tda_dagster.attribution.methods.spec import Family, JointScoringSpec
from tda_dagster.diffusion.latents import Conditioning, LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.objective import Denoiser, Objective
from tda_dagster.errors import TdaError


class PeerSpec(JointScoringSpec):
    """A method as another library has it.

    Of the section `gradients` it has the weights, the draws, the masking of padding, the objective
    and the batches. `gradients.dimension` does not apply: projections are the library's own.
    """

    family: ClassVar[Family] = "peer"
    gradients: GradientSpec

    @field_validator("gradients")
    @classmethod
    def _as_peers_take_it(cls, gradients: GradientSpec) -> GradientSpec:
        if gradients.draw_weights != "equal":
            raise ValueError(
                "other libraries differentiate the mean over a piece's draws; "
                "set draw_weights: equal"
            )
        return gradients.model_copy(update={"dimension": None})

    @property
    def objective(self) -> Objective:
        """What is differentiated."""
        return OBJECTIVES[self.gradients.objective]

    def working_copy(self, model: MusicModel) -> MusicModel:
        """A copy of the model for a library to change; of its weights those of the layer group, and
        only those, ask for gradients."""
        copy = deepcopy(model)
        copy.denoiser.requires_grad_(False)
        parameters = dict(copy.denoiser.named_parameters())
        for name in copy.layer_group(self.gradients.layer_group):
            parameters[name].requires_grad_(True)
        return copy

    def linear_layers(self, model: MusicModel) -> list[str]:
        """The linear layers whose weights are in the layer group, by module name."""
        return linear_layers(model, model.layer_group(self.gradients.layer_group))

    def rows(self, model: MusicModel, pieces: LatentSegments) -> "DataLoader[tuple[Tensor, ...]]":
        """A row per piece with all its draws, in batches, in order."""
        dataset = DrawRows(model, pieces, self.gradients, draws_per_row=self.gradients.draws)
        return DataLoader(dataset, batch_size=self.gradients.batch_size)


class DrawRows(Dataset[tuple[Tensor, ...]]):
    """Pieces under the draws of a plan, as rows of `draws_per_row` draws each, draws running
    fastest.

    A row is latents [C, T], noise [draws, C, T], timesteps [draws], conditioning [S, D] and [1, G],
    float32, and the mask of the frames that count, bool [T]; on CPU.
    """

    def __init__(
        self, model: MusicModel, pieces: LatentSegments, spec: GradientSpec, *, draws_per_row: int
    ) -> None:
        self._pieces, self._plan = pieces, spec.plan
        self._draws_per_row, self._latent_shape = draws_per_row, model.latent_shape
        conditioning = model.condition(pieces.captions, pieces.seconds_start, pieces.seconds_total)
        self._cross, self._global = conditioning.cross.cpu(), conditioning.global_.cpu()
        mask = pieces.frame_mask()
        self._mask = mask if spec.mask_padding else torch.ones_like(mask)

    def __len__(self) -> int:
        return len(self._pieces) * self._plan.draws // self._draws_per_row

    def __getitem__(self, row: int) -> tuple[Tensor, ...]:
        piece, first = divmod(row * self._draws_per_row, self._plan.draws)
        plan = replace(self._plan, kept=tuple(range(first, first + self._draws_per_row)))
        return (
            self._pieces.latents[piece],
            plan.noise([self._pieces.keys[piece]], self._latent_shape)[0],
            plan.timesteps(),
            self._cross[piece],
            self._global[piece],
            self._mask[piece],
        )


def row_losses(denoiser: Denoiser, rows: Sequence[Tensor], objective: Objective) -> Tensor:
    """The objective of every row of a batch, averaged over the row's draws: float32 [rows]."""
    draws = rows[2].shape[1]

    def per_draw(values: Tensor) -> Tensor:
        return values.unsqueeze(1).expand(-1, draws, *values.shape[1:]).flatten(0, 1)

    latents, noise, timesteps, cross, global_, mask = rows
    values = objective(
        denoiser,
        per_draw(latents),
        Conditioning(per_draw(cross), per_draw(global_)),
        noise.flatten(0, 1),
        timesteps.flatten(),
        per_draw(mask),
    )
    return values.reshape(-1, draws).mean(dim=1)


def loss_of_one(
    model: MusicModel, objective: Objective
) -> Callable[[Mapping[str, Tensor], Sequence[Tensor]], Tensor]:
    """The objective of a single row, a scalar, as a function of named weights and the row: what
    libraries on `torch.func` differentiate. Such weights as are not named are the model's."""

    def loss(weights: Mapping[str, Tensor], row: Sequence[Tensor]) -> Tensor:
        def denoise(noised: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            return model.predict(weights, noised, timesteps, conditioning)

        return row_losses(denoise, [part.unsqueeze(0) for part in row], objective)[0]

    return loss


@contextmanager
def importing(library: str, install: str = "") -> Iterator[None]:
    """Inside the block a library is imported; raises TdaError when it is not installed. `install`:
    what it takes besides the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise TdaError(
            f"{library} is not installed ({error}); the methods of other libraries come with "
            f'pip install "tda-dagster[peers]"{install}'
        ) from error
