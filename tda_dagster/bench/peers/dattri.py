"""dattri: a library of attribution methods (https://github.com/TRAIS-Lab/dattri, 0.3)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tda_dagster.attribution.features import TrainingCheckpoint
from tda_dagster.attribution.methods.spec import Material, stored_checkpoints
from tda_dagster.bench.peers.peer import PeerSpec, importing, loss_of_one
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.errors import TdaError
from tda_dagster.numerics import UnfusedAttention


class DattriTrak(PeerSpec):
    """TRAK (Park et al., arXiv:2303.14186) of one model, with the loss as the model's output, so
    that the factor from output to loss is one.

    Defaults are the library's: 512 Gaussian directions and no regularisation, with which there must
    be at least as many training segments as directions.
    """

    method: Literal["dattri_trak"] = "dattri_trak"
    dimension: int = Field(512, gt=0, description="random directions")
    regularization: float = Field(0.0, ge=0, description="added to the diagonal of the kernel")

    @property
    def label(self) -> str:
        return f"dattri: TRAK, {self.dimension} directions"

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        with importing("dattri"):
            from dattri.algorithm.trak import TRAKAttributor
        if self.regularization == 0 and self.dimension > len(material.train):
            raise TdaError(
                f"{self.method}: {self.dimension} directions and only {len(material.train)} "
                f"training segments leave nothing to invert; set method_settings.{self.method}"
                ".dimension to less, or .regularization"
            )
        model = self.working_copy(material.model)

        def output_is_loss(_weights: Mapping[str, Tensor], row: Sequence[Tensor]) -> Tensor:
            return row[0].new_zeros(())  # dattri weights segments by one minus this

        with UnfusedAttention():
            attributor = TRAKAttributor(
                task=_task(self, model, material, [None]),
                correct_probability_func=output_is_loss,
                projector_kwargs=_projector(self.dimension, self.gradients.seed, model),
                device=str(model.device),
                regularization=self.regularization,
            )
            attributor.cache(self.rows(model, material.train))
            scores: Tensor = attributor.attribute(self.rows(model, queries))
        return scores.detach().cpu().double().T.contiguous()


class DattriTracIn(PeerSpec):
    """TracIn (Pruthi et al., arXiv:2002.08484) over the stored checkpoints, weighted by their
    learning rates. By the library's default gradients are projected onto 512 directions."""

    method: Literal["dattri_tracin"] = "dattri_tracin"
    dimension: int | None = Field(512, gt=0, description="random directions (null: no projection)")

    @property
    def label(self) -> str:
        return "dattri: TracIn"

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        with importing("dattri"):
            from dattri.algorithm.tracin import TracInAttributor
        checkpoints = stored_checkpoints(material, self.method)
        model = self.working_copy(material.model)
        with UnfusedAttention():
            attributor = TracInAttributor(
                task=_task(self, model, material, checkpoints),
                weight_list=torch.tensor([c.learning_rate for c in checkpoints]),
                normalized_grad=False,
                projector_kwargs=_projector(self.dimension, self.gradients.seed, model),
                device=str(model.device),
            )
            scores: Tensor = attributor.attribute(
                self.rows(model, material.train), self.rows(model, queries)
            )
        return scores.detach().cpu().double().T.contiguous()


def _task(
    spec: PeerSpec,
    model: MusicModel,
    material: Material,
    checkpoints: Sequence[TrainingCheckpoint | None],
) -> Any:
    """dattri's task: the loss of a row, and the model at checkpoints (None: the base model), whose
    weights are copied into it when their turn comes."""
    from dattri.task import AttributionTask

    def load(module: nn.Module, checkpoint: TrainingCheckpoint | None) -> nn.Module:
        module.load_state_dict(material.model_at(checkpoint).denoiser.state_dict())
        return module

    return AttributionTask(
        loss_func=loss_of_one(model, spec.objective),
        model=model.denoiser,
        checkpoints=list(checkpoints),
        checkpoints_load_func=load,
    )


def _projector(dimension: int | None, seed: int, model: MusicModel) -> dict[str, Any]:
    """All arguments of a projection: what is left out, dattri would take from the attributor that
    was made before, as it writes them into its defaults."""
    return {
        "proj_dim": 512 if dimension is None else dimension,
        "proj_type": "identity" if dimension is None else "normal",
        "proj_max_batch_size": 32,
        "proj_seed": seed,
        "device": str(model.device),
    }
