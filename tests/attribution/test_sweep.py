"""The loss sweep: the same losses however the work is cut."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import Tensor

from tda_dagster.attribution.sweep import LOSS_SCHEMA, sweep
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoiseMode, NoisePlan
from tda_dagster.diffusion.objective import denoising_loss
from tda_dagster.diffusion.opening import open_model

PLANS = {
    "per_segment": NoisePlan(draws=5, seed=3),
    "shared": NoisePlan(draws=5, seed=3, mode="shared", timestep_min=0.4),
}
TOLERANCE = 1e-5
"""How far (relatively) rounding may move a loss when the batches are cut another way."""


@pytest.fixture(params=sorted(PLANS))
def plan(request: pytest.FixtureRequest) -> NoisePlan:
    return PLANS[request.param]


@pytest.fixture(scope="module")
def delta(model: MusicModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: 0.05 * torch.randn(value.shape, generator=generator)
        for name, value in model.weights(model.layer_group("transformer")).items()
    }


def assert_same_losses(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    key = ["segment_id", "draw"]
    assert_frame_equal(
        found.sort(key), expected.sort(key), check_exact=False, rel_tol=TOLERANCE, abs_tol=0
    )


@pytest.mark.parametrize("column", ["loss", "loss_valid"])
@pytest.mark.parametrize("with_delta", [False, True])
def test_losses_are_those_computed_one_by_one(
    model: MusicModel,
    twin: MusicModel,
    segments: LatentSegments,
    plan: NoisePlan,
    delta: dict[str, Tensor],
    column: str,
    with_delta: bool,
) -> None:
    found = sweep(model, segments, plan, delta if with_delta else None)
    assert dict(found.schema) == LOSS_SCHEMA
    rows = found.iter_rows(named=True)
    with twin.shifted(delta if with_delta else {}), torch.no_grad():
        for index in range(len(segments)):
            one = segments.take([index])
            for draw in range(plan.draws):
                t = plan.timesteps()[draw : draw + 1]
                loss = denoising_loss(
                    twin,
                    one.latents,
                    twin.condition(one.captions, one.seconds_start, one.seconds_total),
                    plan.noise(one.segment_ids, twin.latent_shape)[:, draw],
                    t,
                    one.frame_mask() if column == "loss_valid" else None,
                )
                row = next(rows)
                assert (row["segment_id"], row["draw"]) == (one.segment_ids[0], draw)
                assert row["timestep"] == float(t)
                assert row[column] == pytest.approx(float(loss), rel=TOLERANCE)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 12, 1000])
def test_losses_do_not_depend_on_the_batch_size(
    model: MusicModel, segments: LatentSegments, plan: NoisePlan, batch_size: int
) -> None:
    found = sweep(model, segments, plan, batch_size=batch_size)
    expected = sweep(model, segments, plan, batch_size=7)
    assert found.select("segment_id", "draw").equals(expected.select("segment_id", "draw"))
    assert_same_losses(found, expected)


@pytest.mark.parametrize("shard", [1, 2, 5])
def test_losses_do_not_depend_on_the_shard_size(
    model: MusicModel, segments: LatentSegments, plan: NoisePlan, shard: int
) -> None:
    shards = [
        segments.take(range(start, min(start + shard, len(segments))))
        for start in range(0, len(segments), shard)
    ]
    found = pl.concat([sweep(model, part, plan) for part in shards])
    assert_same_losses(found, sweep(model, segments, plan))


def test_losses_do_not_depend_on_the_order(
    model: MusicModel, segments: LatentSegments, plan: NoisePlan
) -> None:
    order = [5, 1, 6, 0, 3, 2, 4]
    found = sweep(model, segments.take(order), plan, batch_size=4)
    assert found["segment_id"].unique(maintain_order=True).to_list() == [
        segments.segment_ids[index] for index in order
    ]
    assert_same_losses(found, sweep(model, segments, plan))


def test_two_runs_give_the_same_bytes(
    model: MusicModel,
    spectral_folder: Path,
    segments: LatentSegments,
    plan: NoisePlan,
    delta: dict[str, Tensor],
) -> None:
    written = set()
    for opened in (model, open_model(spectral_folder), model):
        buffer = io.BytesIO()
        sweep(opened, segments, plan, delta).write_parquet(buffer)
        written.add(buffer.getvalue())
    assert len(written) == 1


@pytest.mark.usefixtures("untouched")
def test_a_delta_is_the_model_with_those_weights(
    model: MusicModel,
    spectral_folder: Path,
    segments: LatentSegments,
    plan: NoisePlan,
    delta: dict[str, Tensor],
) -> None:
    other = open_model(spectral_folder)
    state = other.denoiser.state_dict()
    other.denoiser.load_state_dict(
        {name: value + delta[name] if name in delta else value for name, value in state.items()}
    )
    found = sweep(model, segments, plan, delta)
    assert found.equals(sweep(other, segments, plan))
    base = sweep(model, segments, plan)
    assert (found["loss"] != base["loss"]).all()


@pytest.mark.usefixtures("untouched")
def test_the_model_is_as_before_even_when_a_sweep_fails(
    model: MusicModel, segments: LatentSegments, delta: dict[str, Tensor]
) -> None:
    broken = segments.take([0, 1])
    object.__setattr__(broken, "latents", broken.latents[:, :2])
    with pytest.raises(RuntimeError):
        sweep(model, broken, PLANS["shared"], delta)


@pytest.mark.parametrize("mode", ["per_segment", "shared"])
def test_identical_segments_have_one_loss_under_shared_noise_only(
    model: MusicModel, segments: LatentSegments, mode: NoiseMode
) -> None:
    pair = segments.take([0, 0])
    object.__setattr__(pair, "segment_ids", ("one", "other"))
    losses = sweep(model, pair, PLANS[mode])["loss"].to_list()
    if mode == "shared":
        assert losses[:5] == pytest.approx(losses[5:], rel=TOLERANCE)
    else:
        assert all(abs(a - b) > 1e-3 for a, b in zip(losses[:5], losses[5:], strict=True))


def test_padding_has_no_say_when_it_is_masked(
    framewise_model: MusicModel,
    segments: LatentSegments,
    plan: NoisePlan,
    repadded: Callable[[LatentSegments], LatentSegments],
) -> None:
    other = repadded(segments)
    plain, changed = (sweep(framewise_model, s, plan) for s in (segments, other))
    assert_same_losses(plain.drop("loss"), changed.drop("loss"))
    frames = dict(zip(segments.segment_ids, segments.valid_frames.tolist(), strict=True))
    padded = plain["segment_id"].replace_strict(frames) < segments.latents.shape[2]
    same = (plain["loss"] - changed["loss"]).abs() < 1e-4
    assert (same != padded).all()


def test_a_mask_that_is_all_valid_changes_nothing(
    model: MusicModel, segments: LatentSegments, plan: NoisePlan
) -> None:
    whole = replace(
        segments, valid_frames=torch.full_like(segments.valid_frames, segments.latents.shape[2])
    )
    losses = sweep(model, whole, plan)
    assert losses["loss_valid"].to_list() == pytest.approx(losses["loss"].to_list(), rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_thinned_plan_has_the_losses_of_the_whole_plan(
    model: MusicModel, segments: LatentSegments, plan: NoisePlan, count: int
) -> None:
    thinned = sweep(model, segments, plan.thinned(count))
    assert thinned["draw"].n_unique() == count
    whole = sweep(model, segments, plan)
    assert_same_losses(thinned, whole.join(thinned, on=["segment_id", "draw"], how="semi"))
