"""The part of `bergson` that runs in bergson's own environment.

`python -m tda_dagster.bench.peers.bergson_worker FOLDER DEVICE` reads a pipeline, the training
segments, the queries and the method's settings from a folder, and writes the scores into it.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from tda_dagster.bench.peers.bergson import Bergson
from tda_dagster.bench.peers.peer import DrawRows, row_losses
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.opening import open_model


def scores(
    spec: Bergson, model: MusicModel, train: LatentSegments, queries: LatentSegments
) -> Tensor:
    """Scores float64 [queries, training segments] on CPU."""
    from bergson import GradientProcessor
    from bergson.config.config import InversionConfig
    from bergson.hessians.preconditioner import DensePreconditioner

    processor = GradientProcessor(
        projection_dim=spec.dimension, projection_seed=spec.gradients.seed
    )
    layers, draws = spec.linear_layers(model), spec.gradients.draws
    # Queries first: a collector divides what autocorrelation it finds by its own number of rows.
    asked = _gradients(spec, model, layers, processor, queries, curvature=False)
    known = _gradients(spec, model, layers, processor, train, curvature=spec.damping is not None)
    asked = {
        name: rows.reshape(len(queries), draws, -1).mean(dim=1) for name, rows in asked.items()
    }
    if spec.damping is not None:
        inversion = InversionConfig(damping_factor=spec.damping)
        asked = DensePreconditioner.from_processor(processor, inversion_cfg=inversion).apply(asked)
    products = torch.stack([asked[name].double() @ known[name].double().T for name in layers])
    return products.sum(dim=0).reshape(len(queries), len(train), draws).mean(dim=2)


def _gradients(
    spec: Bergson,
    model: MusicModel,
    layers: list[str],
    processor: Any,
    pieces: LatentSegments,
    *,
    curvature: bool,
) -> dict[str, Tensor]:
    """The rows' projected gradients by layer, [rows, numbers]; their autocorrelation is left in the
    processor when `curvature` is asked for."""
    from bergson import IndexConfig, InMemoryCollector
    from datasets import Dataset

    rows = DrawRows(model, pieces, spec.gradients, draws_per_row=1)
    collector = InMemoryCollector(
        model=model.denoiser,
        data=Dataset.from_dict({"row": list(range(len(rows)))}),
        cfg=IndexConfig(run_path=""),
        processor=processor,
        target_modules=set(layers),
        skip_hessians=not curvature,
    )
    first = 0
    with collector:
        for batch in DataLoader(rows, batch_size=spec.gradients.batch_size):
            losses = row_losses(model, [part.to(model.device) for part in batch], spec.objective)
            torch.autograd.backward(losses.sum())
            model.denoiser.zero_grad(set_to_none=True)
            collector.process_batch(list(range(first, first + len(losses))), losses=losses)
            first += len(losses)
    collector.teardown()
    found: dict[str, Tensor] = collector.gradients
    return found


def main(folder: Path, device: str) -> None:
    spec = Bergson.model_validate_json((folder / "spec.json").read_text())
    model = open_model(folder / "model", device)
    train, queries = (
        LatentSegments.load(folder / f"{name}.safetensors") for name in ("train", "queries")
    )
    found = scores(spec, spec.working_copy(model), train, queries)
    save_file({"scores": found.contiguous()}, folder / "scores.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
