"""Second copies of the model, for computing by hand what the library computes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from tda_dagster.attribution.fisher import FisherSum
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
class MadeMaterial:
    """The `Material` of a study that is a few segments."""

    model: "MusicModel"
    fisher: "FisherSum"
    train: "LatentSegments"

    def embedding(self, name: str) -> "Embedding":
        raise AssertionError(f"{name}: these methods hear nothing")

    query_embedding = embedding


@pytest.fixture(scope="module")
def material(model: "MusicModel", segments: "LatentSegments") -> MadeMaterial:
    from tda_dagster.attribution.fisher import estimate_fisher
    from tda_dagster.diffusion.noise import NoisePlan

    fisher = estimate_fisher(model, segments, NoisePlan(draws=2, seed=1))
    return MadeMaterial(model, fisher, segments)


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
