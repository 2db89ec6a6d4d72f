"""Noise belongs to (seed, draw, segment), never to a place in a batch."""

import pytest
import torch

from tda_dagster.diffusion.noise import NoiseMode, NoisePlan, keyed_generator

SHAPE = (3, 5)
NAMES = ("a:0000", "a:0001", "b:0000", "c:0000")


@pytest.mark.parametrize("mode", ["per_segment", "shared"])
@pytest.mark.parametrize(
    "chosen", [[0], [3], [3, 1], [2, 0, 3, 1], [1, 1]], ids=lambda c: "-".join(map(str, c))
)
def test_any_subset_in_any_order_meets_the_same_noise(mode: NoiseMode, chosen: list[int]) -> None:
    plan = NoisePlan(draws=3, seed=4, mode=mode)
    whole = plan.noise(NAMES, SHAPE)
    assert whole.shape == (4, 3, *SHAPE)
    assert whole.dtype == torch.float32
    again = NoisePlan(draws=3, seed=4, mode=mode)
    part = again.noise([NAMES[index] for index in chosen], SHAPE)
    assert torch.equal(part, whole[chosen])


def test_a_draw_keeps_its_noise_when_there_are_more_draws() -> None:
    few, many = (NoisePlan(draws=n, seed=0).noise(NAMES, SHAPE) for n in (2, 6))
    assert torch.equal(few, many[:, :2])


def test_shared_noise_is_the_same_for_all() -> None:
    noise = NoisePlan(draws=3, seed=0, mode="shared").noise(NAMES, SHAPE)
    for row in noise:
        assert torch.equal(row, noise[0])


@pytest.mark.parametrize("mode", ["per_segment", "shared"])
def test_what_may_differ_differs(mode: NoiseMode) -> None:
    plans = [NoisePlan(draws=3, seed=seed, mode=mode) for seed in (0, 1, 10)]
    noises = [plan.noise(NAMES, SHAPE) for plan in plans]
    if mode == "shared":
        noises = [noise[:1] for noise in noises]
    drawn = torch.stack(noises).flatten(end_dim=2)
    for index, one in enumerate(drawn):
        for other in drawn[index + 1 :]:
            assert not torch.equal(one, other)
    times = [tuple(plan.timesteps().tolist()) for plan in plans]
    assert len(set(times)) == 3


def test_keys_do_not_run_together() -> None:
    def first(*key: str) -> float:
        return float(torch.rand((), generator=keyed_generator(1, *key)))

    assert first("1", "23") != first("12", "3")
    assert float(torch.rand((), generator=keyed_generator(12, "3"))) != first("2", "3")


def test_noise_is_standard_normal() -> None:
    noise = NoisePlan(draws=10, seed=0).noise(NAMES, (10, 100)).double()
    count = noise.numel()
    assert abs(float(noise.mean())) < 4 / count**0.5
    assert abs(float(noise.var()) - 1) < 4 * (2 / count) ** 0.5
    assert abs(float((noise**4).mean()) - 3) < 4 * (96 / count) ** 0.5
    flat = noise.flatten(end_dim=1).flatten(start_dim=1)
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert float(correlation.abs().max()) < 5 / 1000**0.5


@pytest.mark.parametrize("draws", [1, 2, 7, 200])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.5, 1.0), (0.2, 0.3)])
def test_one_timestep_in_each_stratum(draws: int, low: float, high: float) -> None:
    for seed in range(3):
        times = NoisePlan(draws=draws, seed=seed, timestep_min=low, timestep_max=high).timesteps()
        assert times.shape == (draws,)
        assert times.dtype == torch.float32
        width = (high - low) / draws
        for k, t in enumerate(times.double()):
            assert low + k * width - 1e-6 <= t <= low + (k + 1) * width + 1e-6
        assert times.min() > 0
        assert times.max() < 1


def test_timesteps_fill_their_strata() -> None:
    times = NoisePlan(draws=1000, seed=0).timesteps().double()
    place = times * 1000 - torch.arange(1000)
    assert abs(float(place.mean()) - 0.5) < 4 * (1 / 12 / 1000) ** 0.5
    assert float(place.max() - place.min()) > 0.99


def test_the_plan_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    plan = NoisePlan(draws=2, seed=0)
    plan.noise(NAMES, SHAPE)
    plan.timesteps()
    assert torch.equal(torch.get_rng_state(), before)
