"""EK-FAC and its refinement as bergson has them, for `bergson_worker`, in bergson's environment.

What belongs here: feeding the library's collectors and its solver with rows of the study.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bergson.config.config import AstraConfig, InversionConfig
from bergson.hessians.astra import Astra
from bergson.hessians.eigenvectors import LambdaCollector, eigendecompose_owned
from bergson.hessians.kfac import CovarianceCollector
from bergson.hessians.preconditioner import FactoredPreconditioner
from bergson.utils.logger import get_logger
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from tda_dagster.bench.peers.bergson import Bergson
from tda_dagster.bench.peers.peer import DrawRows, SampledRows, error_of_sampled, row_losses
from tda_dagster.diffusion.latents import Conditioning, LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.objective import diffuse
from tda_dagster.numerics import UnfusedAttention

Vectors = dict[str, Tensor]
"""By layer, numbers in the order of the layer's weight, with any dimensions before."""


class _Covariances(CovarianceCollector):  # type: ignore[misc]  # the library has no types
    """The library's collector over all positions of every layer: the lengths of audio and of text
    differ, and one mask cannot be of both."""

    def forward_hook(self, module: Any, a: Tensor) -> None:
        super(_Covariances, self.with_batch(_everywhere(a))).forward_hook(module, a)

    def backward_hook(self, module: Any, g: Tensor) -> None:
        super(_Covariances, self.with_batch(_everywhere(g))).backward_hook(module, g)


def _everywhere(values: Tensor) -> Tensor:
    return values.new_ones(values.shape[:2], dtype=torch.bool)


def ekfac(
    spec: Bergson, model: MusicModel, layers: Sequence[str], pieces: LatentSegments, folder: Path
) -> Any:
    """The library's preconditioner from the factors of the pieces' rows, which are left in
    `folder`."""
    rows = SampledRows(spec, model, pieces)
    shared = {
        "model": model.denoiser,
        "target_modules": set(layers),
        "path": str(folder),
        "dtype": torch.float32,
    }
    covariances = _Covariances(**shared)
    _collect(covariances, spec, model, rows)
    (inputs, of_inputs), (outputs, of_outputs) = (
        eigendecompose_owned(
            found,
            shapes,
            None,
            len(rows),
            str(folder / name),
            torch.float32,
            num_positions=covariances.num_positions,
        )
        for found, shapes, name in (
            (covariances.A_cov_dict, covariances.A_shapes, "eigen_activation_sharded"),
            (covariances.S_cov_dict, covariances.S_shapes, "eigen_gradient_sharded"),
        )
    )
    del of_inputs, of_outputs  # their products are what the next pass replaces
    eigenvalues = LambdaCollector(**shared, num_documents=len(rows), eigenvectors=(inputs, outputs))
    _collect(eigenvalues, spec, model, rows)
    eigenvalues.teardown()
    return FactoredPreconditioner.from_path(
        folder,
        inversion_cfg=InversionConfig(damping_factor=spec.damping),
        ev_correction=True,
        device=model.device,
    )


def _collect(collector: Any, spec: Bergson, model: MusicModel, rows: SampledRows) -> None:
    """Differentiate every row once under the library's hooks."""
    with collector:
        for batch in DataLoader(rows, batch_size=spec.gradients.batch_size):
            *parts, noise = (part.to(model.device) for part in batch)
            sampled = error_of_sampled(noise.flatten(0, 1))
            objective = spec.objective if spec.use_dataset_labels else sampled
            torch.autograd.backward(row_losses(model, parts, objective).sum())
            model.denoiser.zero_grad(set_to_none=True)


class _GaussNewton:
    """Products of the Gauss-Newton matrix of the loss, a mean over rows, with vectors.

    The loss of a row is |r|² with r its velocities' errors over the square root of their number, so
    that the matrix is the mean of 2·JᵀJ with J = ∂r/∂weights.
    """

    def __init__(self, model: MusicModel, rows: DrawRows, layers: Sequence[str]) -> None:
        self._model, self._rows = model, rows
        parameters = dict(model.denoiser.named_parameters())
        self._weights = {name: parameters[f"{name}.weight"].detach() for name in layers}

    def __call__(self, vectors: Vectors, indices: Sequence[int]) -> Vectors:
        batch = default_collate([self._rows[index] for index in indices])
        latents, noise, timesteps, cross, global_, mask = (
            part.to(self._model.device) for part in batch
        )
        noised, _ = diffuse(latents, noise.flatten(0, 1), timesteps.flatten())
        counted = mask.unsqueeze(1).to(latents.dtype)
        scale = counted / (latents.shape[1] * mask.sum(dim=1)).sqrt().view(-1, 1, 1)

        def velocities(weights: Mapping[str, Tensor]) -> Tensor:
            named = {f"{name}.weight": weight for name, weight in weights.items()}
            conditioning = Conditioning(cross, global_)
            found = self._model.predict(named, noised, timesteps.flatten(), conditioning)
            return torch.mul(scale, found)

        tangents = {name: vectors[name].view_as(weight) for name, weight in self._weights.items()}
        with UnfusedAttention():
            moved = torch.func.jvp(velocities, (self._weights,), (tangents,))[1]
            pull = torch.func.vjp(velocities, self._weights)[1]
        (found,) = pull(2 * moved / len(indices))
        return {name: part.flatten() for name, part in found.items()}


class _Refinement(Astra):  # type: ignore[misc]  # the library has no types
    """The library's solver, from its EK-FAC solutions, with products of our loss."""

    def __init__(
        self, spec: Bergson, model: MusicModel, train: LatentSegments, preconditioner: Any
    ) -> None:
        rows = DrawRows(model, train, spec.gradients, draws_per_row=1)
        self.cfg = AstraConfig(
            num_steps=spec.cg_steps,
            solver="cg",
            batch_size=spec.cg_rows,
            seed=spec.gradients.seed,
        )
        self.logger = get_logger("Astra", level="WARNING")
        self.preconditioner = preconditioner
        self.names = list(preconditioner.lambdas)
        self.damping = {
            name: spec.damping * values.mean() for name, values in preconditioner.lambdas.items()
        }
        self.hvp = _GaussNewton(model, rows, self.names)
        self.num_docs = len(rows)


def refined(
    spec: Bergson, model: MusicModel, train: LatentSegments, preconditioner: Any, asked: Vectors
) -> Vectors:
    """(H + D)⁻¹·g of the queries' gradients [queries, numbers], by conjugate gradients from where
    EK-FAC has it."""
    solver = _Refinement(spec, model, train, preconditioner)
    first = preconditioner.apply(asked)
    count = len(next(iter(asked.values())))
    solved = [
        solver.refine(
            {name: asked[name][row] for name in solver.names},
            {name: first[name][row].clone() for name in solver.names},
            row,
        )
        for row in range(count)
    ]
    return {name: torch.stack([one[name] for one in solved]) for name in solver.names}
