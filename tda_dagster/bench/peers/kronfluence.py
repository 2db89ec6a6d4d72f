"""kronfluence: influence under Kronecker-factored curvature
(https://github.com/pomonam/kronfluence, 1.0)."""

import logging
import math
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from tda_dagster.attribution.methods.spec import Material
from tda_dagster.bench.peers.peer import DrawRows, PeerSpec, importing, row_losses
from tda_dagster.diffusion.latents import Conditioning, LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.objective import Denoiser, Objective, diffuse, mean_over
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
        train, asked = (_SampledRows(self, model, part) for part in (material.train, queries))
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


class _SampledRows(Dataset[tuple[Tensor, ...]]):
    """A row per piece and draw, and Gaussian noise [1, C, T] that samples an output for it: in the
    row, so that neither order nor batches change what is sampled."""

    def __init__(self, spec: PeerSpec, model: MusicModel, pieces: LatentSegments) -> None:
        self._rows = DrawRows(model, pieces, spec.gradients, draws_per_row=1)
        self._names, self._draws = pieces.keys, spec.gradients.draws
        self._latent_shape = model.latent_shape
        self._seed = spec.gradients.seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> tuple[Tensor, ...]:
        piece, draw = divmod(row, self._draws)
        samples = NoisePlan(draws=1, seed=self._seed, mode="per_segment")
        name = f"sampled output {draw} of {self._names[piece]}"
        return *self._rows[row], samples.noise([name], self._latent_shape)[0]


def _task(spec: PeerSpec, model: MusicModel, layers: list[str]) -> Any:
    """kronfluence's task: the summed loss of a batch, and the layers that take part."""
    from kronfluence.task import Task

    denoiser = model  # its layers are the library's own by the time it is called

    class DenoisingTask(Task):  # type: ignore[misc]  # the library has no types
        def compute_train_loss(
            self, batch: Sequence[Tensor], model: nn.Module, sample: bool = False
        ) -> Tensor:
            *rows, noise = batch
            objective = _error_of_sampled(noise.flatten(0, 1)) if sample else spec.objective
            return row_losses(denoiser, rows, objective).sum()

        def compute_measurement(self, batch: Sequence[Tensor], model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return layers

    return DenoisingTask()


def _error_of_sampled(samples: Tensor) -> Objective:
    """The loss against velocities sampled from the model. A mean of squares over m entries is, up
    to a constant, the negative log-likelihood of a Gaussian of variance m/2."""

    def objective(
        denoiser: Denoiser,
        latents: Tensor,
        conditioning: Conditioning,
        noise: Tensor,
        timesteps: Tensor,
        frame_mask: Tensor | None = None,
    ) -> Tensor:
        assert frame_mask is not None
        noised, _ = diffuse(latents, noise, timesteps)
        predicted = denoiser(noised, timesteps, conditioning)
        entries = latents.shape[1] * frame_mask.sum(dim=1)
        deviation = (entries / 2).sqrt().view(-1, 1, 1) * samples
        errors = (predicted - (predicted.detach() + deviation)).square().mean(dim=1)
        return mean_over(errors, frame_mask)

    return objective
