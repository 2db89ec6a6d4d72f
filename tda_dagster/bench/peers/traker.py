"""traker: TRAK by its authors (https://github.com/MadryLab/trak, 0.3)."""

import logging
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.methods.spec import Material
from tda_dagster.bench.peers.peer import PeerSpec, importing, loss_of_one
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.errors import TdaError
from tda_dagster.numerics import UnfusedAttention


class TrakerTrak(PeerSpec):
    """TRAK (Park et al., arXiv:2303.14186) of one model, with the loss as the model's output, so
    that the factor from output to loss is one.

    Defaults are the library's: 2,048 Gaussian directions and no regularisation, with which there
    must be at least as many training segments as directions. Its projection in blocks on CPU is
    taken, and float32: float16 is for its kernels on CUDA.
    """

    method: Literal["traker_trak"] = "traker_trak"
    dimension: int = Field(2048, gt=1, description="random directions")
    damping: float = Field(
        0.0, ge=0, description="lambda_reg, relative to the kernel's mean eigenvalue over segments"
    )

    @property
    def label(self) -> str:
        return f"traker: TRAK, {self.dimension} directions"

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        with importing("traker"):
            from trak import TRAKer
            from trak.projectors import BasicProjector, ProjectionType
        if self.damping == 0 and self.dimension > len(material.train):
            raise TdaError(
                f"{self.method}: {self.dimension} directions and only {len(material.train)} "
                "training segments leave nothing to invert; set method_settings."
                f"{self.method}.dimension to less, or .damping, e.g. to 0.001"
            )
        model = self.working_copy(material.model)
        names = list(model.layer_group(self.gradients.layer_group))
        device = str(model.device)
        weights = model.denoiser.state_dict()
        with TemporaryDirectory() as folder, UnfusedAttention():
            traker = TRAKer(
                model=model.denoiser,
                task=_Output(self, model),
                train_set_size=len(material.train),
                save_dir=folder,
                device=device,
                projector=BasicProjector(
                    grad_dim=model.parameter_count(names),
                    proj_dim=self.dimension,
                    seed=self.gradients.seed,
                    proj_type=ProjectionType.normal,
                    device=device,
                    # A matrix in one block is gone after `finalize_features` and not made again.
                    block_size=min(100, self.dimension - 1),
                ),
                grad_wrt=names,
                use_half_precision=False,
                logging_level=logging.WARNING,
            )
            traker.load_checkpoint(weights, model_id=0)
            for batch in self.rows(model, material.train):
                traker.featurize([part.to(device) for part in batch], num_samples=len(batch[0]))
            features = torch.from_numpy(traker.saver.current_store["grads"][:])
            mean_eigenvalue = float(features.double().square().sum()) / len(features)
            traker.score_computer.lambda_reg = self.damping * mean_eigenvalue
            traker.finalize_features()
            traker.start_scoring_checkpoint("queries", weights, 0, num_targets=len(queries))
            for batch in self.rows(model, queries):
                traker.score([part.to(device) for part in batch], num_samples=len(batch[0]))
            scores = torch.from_numpy(traker.finalize_scores("queries")[:]).double()
        return scores.T.contiguous()


class _Output:
    """What traker asks of a task: the model's output for a row, and its derivative in the loss."""

    def __init__(self, spec: PeerSpec, model: MusicModel) -> None:
        self._loss = loss_of_one(model, spec.objective)

    def get_output(
        self,
        _model: torch.nn.Module,
        weights: Mapping[str, Tensor],
        _buffers: Mapping[str, Tensor],
        *row: Tensor,
    ) -> Tensor:
        return self._loss(weights, row)

    def get_out_to_loss_grad(
        self,
        _model: torch.nn.Module,
        _weights: Mapping[str, Tensor],
        _buffers: Mapping[str, Tensor],
        batch: list[Tensor],
    ) -> Tensor:
        return torch.ones((len(batch[0]), 1))
