"""The loss is the v-objective, in the convention that diffusers samples with."""

import math

import numpy as np
import pytest
import torch
from diffusers import CosineDPMSolverMultistepScheduler
from torch import Tensor

from tda_dagster.diffusion.latents import Conditioning
from tda_dagster.diffusion.objective import denoising_loss, diffuse

NOTHING = Conditioning(torch.empty(5, 0, 1), torch.empty(5, 0, 1))
VALID = torch.tensor([12, 7, 1, 12, 3])


def framewise(noised: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
    """A denoiser to which frames are strangers."""
    return torch.tanh(2 * noised) - timesteps.view(-1, 1, 1) * noised.mean(dim=1, keepdim=True)


@pytest.fixture
def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn((2, 5, 3, 12), generator=generator)
    return latents, noise, torch.tensor([0.03, 0.25, 0.5, 0.8, 0.99])


@pytest.fixture
def mask() -> Tensor:
    return torch.arange(12) < VALID.unsqueeze(1)


@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_is_the_v_objective(
    example: tuple[Tensor, Tensor, Tensor], mask: Tensor, masked: bool
) -> None:
    latents, noise, timesteps = example
    found = denoising_loss(framewise, latents, NOTHING, noise, timesteps, mask if masked else None)
    for row in range(5):
        x, eps = latents[row].double().numpy(), noise[row].double().numpy()
        t = float(timesteps[row])
        alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
        noised, velocity = alpha * x + sigma * eps, alpha * eps - sigma * x
        predicted = np.tanh(2 * noised) - t * noised.mean(axis=0)
        frames = int(VALID[row]) if masked else 12
        squares = [(predicted[c, f] - velocity[c, f]) ** 2 for c in range(3) for f in range(frames)]
        assert float(found[row]) == pytest.approx(sum(squares) / len(squares), rel=1e-5)


def test_masked_frames_have_no_influence(
    example: tuple[Tensor, Tensor, Tensor], mask: Tensor
) -> None:
    latents, noise, timesteps = example
    hidden = ~mask.unsqueeze(1)
    other_latents = torch.where(hidden, 5.0, latents)
    other_noise = torch.where(hidden, -3.0, noise)
    before = denoising_loss(framewise, latents, NOTHING, noise, timesteps, mask)
    after = denoising_loss(framewise, other_latents, NOTHING, other_noise, timesteps, mask)
    assert torch.equal(before, after)
    unmasked = denoising_loss(framewise, other_latents, NOTHING, other_noise, timesteps)
    padded = VALID < 12
    assert not torch.isclose(unmasked, before)[padded].any()


def test_masked_frames_have_no_gradient(
    example: tuple[Tensor, Tensor, Tensor], mask: Tensor
) -> None:
    latents, noise, timesteps = example
    latents.requires_grad_(True)
    denoising_loss(framewise, latents, NOTHING, noise, timesteps, mask).sum().backward()
    assert latents.grad is not None
    moved = latents.grad.abs().sum(dim=1) > 0
    assert torch.equal(moved, mask)


def test_a_mask_of_all_frames_changes_nothing(example: tuple[Tensor, Tensor, Tensor]) -> None:
    latents, noise, timesteps = example
    everything = torch.ones(5, 12, dtype=torch.bool)
    plain = denoising_loss(framewise, latents, NOTHING, noise, timesteps)
    masked = denoising_loss(framewise, latents, NOTHING, noise, timesteps, everything)
    torch.testing.assert_close(masked, plain, rtol=1e-6, atol=0)


def test_examples_do_not_see_each_other(example: tuple[Tensor, Tensor, Tensor]) -> None:
    latents, noise, timesteps = example
    together = denoising_loss(framewise, latents, NOTHING, noise, timesteps)
    for row in range(5):
        only = slice(row, row + 1)
        alone = denoising_loss(framewise, latents[only], NOTHING, noise[only], timesteps[only])
        torch.testing.assert_close(alone, together[only], rtol=1e-6, atol=0)


def test_noising_keeps_the_variance_and_the_ends(example: tuple[Tensor, Tensor, Tensor]) -> None:
    latents, noise, _ = example
    start, velocity = diffuse(latents, noise, torch.zeros(5))
    assert torch.equal(start, latents)
    assert torch.equal(velocity, noise)
    end, velocity = diffuse(latents, noise, torch.ones(5))
    torch.testing.assert_close(end, noise, rtol=0, atol=1e-6)
    torch.testing.assert_close(velocity, -latents, rtol=0, atol=1e-6)
    noised, velocity = diffuse(latents, noise, torch.full((5,), 0.37))
    torch.testing.assert_close(
        noised.square() + velocity.square(), latents.square() + noise.square()
    )


def scheduler(steps: int) -> CosineDPMSolverMultistepScheduler:
    made = CosineDPMSolverMultistepScheduler(
        sigma_min=0.1, sigma_max=100.0, solver_order=2, sigma_schedule="exponential"
    )
    made.set_timesteps(steps)
    return made


def test_the_convention_is_the_schedulers() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn((2, 1, 3, 12), generator=generator, dtype=torch.float64)
    sampling = scheduler(20)
    assert len(sampling.timesteps) == 20
    assert all(0 < t < 1 for t in sampling.timesteps)
    for t, sigma in zip(sampling.timesteps.double(), sampling.sigmas.double(), strict=False):
        assert float(t) == pytest.approx(2 / math.pi * math.atan(sigma), rel=1e-6)
        # While sampling, a sample is x₀ + σε: the noised latents divided by α.
        sample = latents + sigma * noise
        angle = sampling.precondition_noise(sigma).view(1)
        noised, velocity = diffuse(latents, noise, angle)
        torch.testing.assert_close(sampling.precondition_inputs(sample, sigma), noised)
        recovered = sampling.precondition_outputs(sample, velocity, sigma)
        torch.testing.assert_close(recovered, latents, rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore::UserWarning:torchsde")  # rounding at the ends of its interval
def test_who_knows_the_velocity_samples_the_music() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((1, 3, 12), generator=generator)
    sampling = scheduler(20)
    sample = torch.randn((1, 3, 12), generator=generator) * sampling.init_noise_sigma
    for t in sampling.timesteps:
        noised = sampling.scale_model_input(sample, t)
        alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
        implied = (noised - alpha * latents) / sigma
        again, velocity = diffuse(latents, implied, t.view(1))
        torch.testing.assert_close(again, noised)
        sample = sampling.step(velocity, t, sample, generator=generator).prev_sample
    torch.testing.assert_close(sample, latents, rtol=0, atol=1e-3)
