"""The part of `bergson` that runs in bergson's own environment.

`python -m tda_dagster.bench.peers.bergson_worker FOLDER DEVICE` reads a pipeline, the training
segments, the queries and the method's settings from a folder, and writes the scores into it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bergson import GradientProcessor, IndexConfig, InMemoryCollector
from bergson.config.config import InversionConfig
from bergson.hessians.preconditioner import DensePreconditioner
from bergson.utils.math import compute_lambda
from datasets import Dataset
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from tda_dagster.bench.peers.bergson import Bergson
from tda_dagster.bench.peers.bergson_curvature import Vectors, ekfac, refined
from tda_dagster.bench.peers.peer import DrawRows, row_losses
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.opening import open_model

_HELD_BYTES = 1e9
"""About how much memory the gradients of training rows take that are held at once."""


def scores(
    spec: Bergson, model: MusicModel, train: LatentSegments, queries: LatentSegments, folder: Path
) -> Tensor:
    """Scores float64 [queries, training segments] on CPU; factors are left in `folder`."""
    study = _Study(spec, model)
    if spec.strategy in ("ekfac", "ekfac_cg"):
        preconditioner = ekfac(spec, model, study.layers, train, folder)
        asked, _ = study.gradients(queries, None)
        if spec.strategy == "ekfac":
            directions = preconditioner.apply(asked)
        else:
            directions = refined(spec, model, train, preconditioner, asked)
        parts = (study.gradients(part, None)[0] for part in study.in_parts(train))
        return torch.cat([_products(directions, part) for part in parts], dim=1)
    known, of_train = study.gradients(train, spec.dimension)
    asked, of_queries = study.gradients(queries, spec.dimension)
    if spec.strategy == "identity":
        return _products(asked, known)
    inversion = InversionConfig(damping_factor=spec.damping)
    if spec.strategy == "autocorrelation":
        inverse = DensePreconditioner.from_processor(of_train, inversion_cfg=inversion)
        return _products(inverse.apply(asked), known)
    if spec.downweighted is not None:
        _mix(of_train, of_queries, spec.downweighted)
    root = DensePreconditioner.from_processor(of_train, inversion_cfg=inversion, power=-0.5)
    return _products(_of_norm_one(root.apply(asked)), _of_norm_one(root.apply(known)))


class _Study:
    """The gradients of pieces as the library collects them."""

    def __init__(self, spec: Bergson, model: MusicModel) -> None:
        self._spec, self._model = spec, model
        self.layers = spec.linear_layers(model)

    def in_parts(self, pieces: LatentSegments) -> Iterator[LatentSegments]:
        """The pieces in order, in parts whose gradients without projection can be held."""
        numbers = self._model.parameter_count([f"{name}.weight" for name in self.layers])
        size = max(1, int(_HELD_BYTES / (4 * numbers * self._spec.gradients.draws)))
        for first in range(0, len(pieces), size):
            yield pieces.take(range(first, min(first + size, len(pieces))))

    def gradients(self, pieces: LatentSegments, dimension: int | None) -> tuple[Vectors, Any]:
        """The pieces' gradients by layer, averaged over draws [pieces, numbers], and the
        library's processor with the autocorrelation of their rows where they are projected, or
        where the strategy asks for it."""
        spec, model = self._spec, self._model
        rows = DrawRows(model, pieces, spec.gradients, draws_per_row=1)
        processor = GradientProcessor(projection_dim=dimension, projection_seed=spec.gradients.seed)
        collector = InMemoryCollector(
            model=model.denoiser,
            data=Dataset.from_dict({"row": list(range(len(rows)))}),
            cfg=IndexConfig(run_path=""),
            processor=processor,
            target_modules=set(self.layers),
            skip_hessians=spec.strategy not in ("autocorrelation", "trackstar"),
        )
        first = 0
        with collector:
            for batch in DataLoader(rows, batch_size=spec.gradients.batch_size):
                losses = row_losses(model, [p.to(model.device) for p in batch], spec.objective)
                torch.autograd.backward(losses.sum())
                model.denoiser.zero_grad(set_to_none=True)
                collector.process_batch(list(range(first, first + len(losses))), losses=losses)
                first += len(losses)
        collector.teardown()
        found = {
            name: collector.gradients[name].reshape(len(pieces), spec.gradients.draws, -1).mean(1)
            for name in self.layers
        }
        return found, processor


def _mix(of_train: Any, of_queries: Any, components: int) -> None:
    """Mix the queries' autocorrelation into that of training rows, as the library does."""
    share = compute_lambda(of_queries.hessians_eigen, of_train.hessians_eigen, components)
    for name, matrix in of_train.hessians.items():
        of_train.hessians[name] = share * of_queries.hessians[name] + (1 - share) * matrix


def _of_norm_one(vectors: Vectors) -> Vectors:
    """Each piece divided by its norm over all layers; zeros stay."""
    squares = torch.stack([part.double().square().sum(dim=1) for part in vectors.values()])
    norms = squares.sum(dim=0).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return {name: part.double() / norms.unsqueeze(1) for name, part in vectors.items()}


def _products(asked: Vectors, known: Vectors) -> Tensor:
    """Inner products over all layers, float64 [queries, pieces] on CPU."""
    parts = [asked[name].double() @ known[name].double().T for name in known]
    return torch.stack(parts).sum(dim=0).cpu()


def main(folder: Path, device: str) -> None:
    spec = Bergson.model_validate_json((folder / "spec.json").read_text())
    model = open_model(folder / "model", device)
    train, queries = (
        LatentSegments.load(folder / f"{name}.safetensors") for name in ("train", "queries")
    )
    (folder / "factors").mkdir()
    found = scores(spec, spec.working_copy(model), train, queries, folder / "factors")
    save_file({"scores": found.contiguous()}, folder / "scores.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
