"""Second copies of the model, for computing by hand what the library computes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from tda_dagster.attribution.features import GradientSpec, TrainingCheckpoint
    from tda_dagster.attribution.fisher import FisherSum
    from tda_dagster.attribution.groups import Groups
    from tda_dagster.attribution.methods.tasks import Result, Work
    from tda_dagster.diffusion.latents import LatentSegments
    from tda_dagster.diffusion.model import MusicModel
    from tda_dagster.diffusion.noise import NoisePlan
    from tda_dagster.embedding import Embedding


@pytest.fixture(scope="module")
def twin(spectral_folder: Path) -> "MusicModel":
    """The same model a second time, with gradients: what a test does to it, `model` never sees."""
    from tda_dagster.diffusion.opening import open_model

    opened = open_model(spectral_folder)
    opened.denoiser.requires_grad_(True)
    return opened


@pytest.fixture(scope="module")
def gradient_by_hand() -> "Callable[..., dict[str, Tensor]]":
    """One backward pass: the gradients of the loss of one segment under one draw, float64."""
    from tda_dagster.diffusion.objective import denoising_loss

    def compute(
        model: "MusicModel",
        segment: "LatentSegments",
        plan: "NoisePlan",
        draw: int,
        mask_padding: bool,
    ) -> "dict[str, Tensor]":
        assert len(segment) == 1
        model.denoiser.zero_grad()
        denoising_loss(
            model,
            segment.latents,
            model.condition(segment.captions, segment.seconds_start, segment.seconds_total),
            plan.noise(segment.segment_ids, model.latent_shape)[:, draw],
            plan.timesteps()[draw : draw + 1],
            segment.frame_mask() if mask_padding else None,
        ).sum().backward()
        return {
            name: parameter.grad.double()
            for name, parameter in model.denoiser.named_parameters()
            if parameter.grad is not None
        }

    return compute


@dataclass
class Study:
    """The `Material` of a study that is a few segments, with two checkpoints and the base model."""

    model: "MusicModel"
    fisher: "FisherSum"
    train: "LatentSegments"
    earlier: "dict[int, MusicModel]"
    folder: Path
    ran: "list[str]" = field(default_factory=list)
    """Names of the work that was not found."""

    @property
    def checkpoints(self) -> "tuple[TrainingCheckpoint, ...]":
        from tda_dagster.attribution.features import TrainingCheckpoint

        return tuple(TrainingCheckpoint(step, 0.1 * step) for step in self.earlier)

    def model_at(self, checkpoint: "TrainingCheckpoint | None") -> "MusicModel":
        return self.model if checkpoint is None else self.earlier[checkpoint.step]

    def features(
        self, spec: "GradientSpec", checkpoint: "TrainingCheckpoint | None" = None
    ) -> "Tensor":
        return spec.features(self.model_at(checkpoint), self.train)

    def groups(self, column: str) -> "Groups":
        by_column = {
            "rightsholder": {"Ada": (0, 3), "Bo": (1, 2, 4), "Cy": (5, 6)},
            "split": {"train": tuple(range(len(self.train)))},
        }
        return by_column[column]

    def shards(self) -> "list[LatentSegments]":
        return [self.train.take([0, 1]), self.train.take(range(2, len(self.train)))]

    def results(self, work: "Sequence[Work]") -> "list[Result]":
        return [self._result(one) for one in work]

    def _result(self, work: "Work") -> "Result":
        from tda_dagster.attribution.methods.tasks import Result
        from tda_dagster.store import digest_of

        given = "" if work.segments is None else work.segments.digest
        delta = "" if work.delta is None else work.delta.digest
        path = self.folder / "-".join([work.task.digest()[:12], given[:12], delta[:12]])
        if not path.exists():
            work.run(self, path)
            self.ran.append(work.name)
        return Result(path, digest_of(path.read_bytes()))

    def embedding(self, name: str) -> "Embedding":
        raise AssertionError(f"{name}: these methods hear nothing")

    query_embedding = embedding


@pytest.fixture(scope="module")
def make_study(
    spectral_folder: Path, segments: "LatentSegments", tmp_path_factory: pytest.TempPathFactory
) -> "Callable[[MusicModel, str], Study]":
    """`make_study(model, device)`: a study of a model that is on that device."""
    import torch

    from tda_dagster.attribution.fisher import estimate_fisher
    from tda_dagster.diffusion.noise import NoisePlan
    from tda_dagster.diffusion.opening import open_model

    def make(model: "MusicModel", device: str) -> Study:
        earlier = {}
        for step in (2, 5):
            at = open_model(spectral_folder, device)
            with torch.no_grad():
                for parameter in at.denoiser.parameters():
                    parameter *= 1 - 0.05 * step
            earlier[step] = at
        fisher = estimate_fisher(model, segments, NoisePlan(draws=2, seed=1))
        return Study(model, fisher, segments, earlier, tmp_path_factory.mktemp("results"))

    return make


@pytest.fixture(scope="module")
def study(model: "MusicModel", make_study: "Callable[[MusicModel, str], Study]") -> Study:
    return make_study(model, "cpu")


@pytest.fixture(scope="module")
def queries(make_segments: "Callable[..., LatentSegments]") -> "LatentSegments":
    return replace(make_segments(2, seed=8), segment_ids=("q0", "q1"))


@pytest.fixture
def framewise_model(spectral_folder: Path) -> "MusicModel":
    """The model without self-attention: its frames are strangers, so that padding can reach the
    rest through the loss only."""
    import torch

    from tda_dagster.diffusion.opening import open_model

    opened = open_model(spectral_folder)
    with torch.no_grad():
        for block in opened.pipeline.transformer.transformer_blocks:
            block.attn1.to_out[0].weight.zero_()
    return opened


@pytest.fixture
def repadded() -> "Callable[[LatentSegments], LatentSegments]":
    """The same segments with other numbers in their padding."""

    def change(segments: "LatentSegments") -> "LatentSegments":
        other = segments.take(range(len(segments)))
        padding = ~segments.frame_mask().unsqueeze(1).expand_as(other.latents)
        other.latents[padding] = 7.0
        assert padding.any()
        return other

    return change


@pytest.fixture
def untouched(model: "MusicModel") -> Iterator[None]:
    """Fails the test if it leaves the model's weights changed by a single bit."""
    import torch

    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    yield
    for name, value in model.denoiser.state_dict().items():
        assert torch.equal(value, before[name]), name
