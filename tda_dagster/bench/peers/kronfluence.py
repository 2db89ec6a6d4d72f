"""kronfluence: influence under Kronecker-factored curvature
(https://github.com/pomonam/kronfluence, 1.0)."""

import logging
import math
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from tda_dagster.attribution.methods.spec import Material
from tda_dagster.bench.peers.peer import (
    PeerSpec,
    SampledRows,
    error_of_sampled,
    importing,
    row_losses,
)
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.numerics import UnfusedAttention

_INSTALL = (
    " and pip install --no-deps kronfluence (it asks for torchvision, which it does not use, and "
    "which must be of the same build as torch)"
)
_HELD_BYTES = 1e9
"""About how much memory the gradients of queries take that meet the training rows in one pass."""


class Kronfluence(PeerSpec):
    """g_q·C⁻¹·g_i with C an approximation of the Fisher information of linear layers: none
    (`identity`), its diagonal, or EK-FAC (Grosse et al., arXiv:2308.03296, section 2).

    The library sees a row per piece and draw; scores are averaged over the draws of both pieces.
    Only linear layers of the layer group take part: it knows no norms and no one-dimensional
    convolutions. C is, as is its default, the Fisher information of outputs sampled from the model,
    velocities with Gaussian noise, whose squared error is the loss. The damping is its heuristic,
    0.1 of each layer's mean eigenvalue, which it takes when asked for none; its default is 1e-8,
    whatever the scale of the loss.
    """

    method: Literal["kronfluence"] = "kronfluence"
    strategy: Literal["identity", "diagonal", "ekfac"] = "ekfac"
    use_empirical_fisher: bool = Field(
        False, description="curvature of the training's own targets, not of sampled outputs"
    )
    damping_factor: float | None = Field(
        None, ge=0, description="added to eigenvalues (null: 0.1 of their mean)"
    )

    @property
    def label(self) -> str:
        return f"kronfluence: {self.strategy}"

    @property
    def slug(self) -> str:
        return f"{self.method} {self.strategy}"

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        with importing("kronfluence", _INSTALL):
            from kronfluence.analyzer import Analyzer, prepare_model
            from kronfluence.arguments import FactorArguments, ScoreArguments
        model = self.working_copy(material.model)
        layers = self.linear_layers(model)
        task = _task(self, model, layers)
        train, asked = (SampledRows(self, model, part) for part in (material.train, queries))
        batch = self.gradients.batch_size
        bytes_per_batch = 4 * batch * model.parameter_count([f"{name}.weight" for name in layers])
        held = max(1, int(_HELD_BYTES / bytes_per_batch))
        with TemporaryDirectory() as folder, UnfusedAttention():
            analyzer = Analyzer(
                analysis_name=self.method,
                model=prepare_model(model.denoiser, task),
                task=task,
                cpu=model.device.type == "cpu",
                log_level=logging.WARNING,
                disable_tqdm=True,
                output_dir=folder,
            )
            analyzer.fit_all_factors(
                factors_name=self.strategy,
                dataset=train,
                per_device_batch_size=batch,
                factor_args=FactorArguments(
                    strategy=self.strategy, use_empirical_fisher=self.use_empirical_fisher
                ),
            )
            analyzer.compute_pairwise_scores(
                scores_name=self.strategy,
                factors_name=self.strategy,
                query_dataset=asked,
                train_dataset=train,
                per_device_query_batch_size=batch,
                per_device_train_batch_size=batch,
                score_args=ScoreArguments(
                    damping_factor=self.damping_factor,
                    query_gradient_accumulation_steps=min(held, math.ceil(len(asked) / batch)),
                ),
            )
            found = analyzer.load_pairwise_scores(self.strategy)["all_modules"]
        draws = self.gradients.draws
        scores: Tensor = found.detach().cpu().double()
        return scores.reshape(len(queries), draws, len(material.train), draws).mean(dim=(1, 3))


def _task(spec: PeerSpec, model: MusicModel, layers: list[str]) -> Any:
    """kronfluence's task: the summed loss of a batch, and the layers that take part."""
    from kronfluence.task import Task

    denoiser = model  # its layers are the library's own by the time it is called

    class DenoisingTask(Task):  # type: ignore[misc]  # the library has no types
        def compute_train_loss(
            self, batch: Sequence[Tensor], model: nn.Module, sample: bool = False
        ) -> Tensor:
            *rows, noise = batch
            objective = error_of_sampled(noise.flatten(0, 1)) if sample else spec.objective
            return row_losses(denoiser, rows, objective).sum()

        def compute_measurement(self, batch: Sequence[Tensor], model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return layers

    return DenoisingTask()
