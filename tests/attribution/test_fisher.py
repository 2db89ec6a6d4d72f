"""Fisher information against one backward pass per example."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tda_dagster.attribution.fisher import FisherSum, add_fisher, estimate_fisher
from tda_dagster.attribution.gradients import mean_gradient, per_example_gradients
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import ModelError, MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.opening import open_model
from tda_dagster.materialization import PerThread

Gradient = Callable[..., dict[str, Tensor]]

PLAN = NoisePlan(draws=3, seed=11)


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Up to float32's rounding, which is relative to the largest gradients of a parameter."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        largest = float(value.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(
            found[name].double(), value.double(), rtol=1e-4, atol=1e-6 * largest
        )


@pytest.fixture(scope="module")
def fisher(model: MusicModel, segments: LatentSegments) -> FisherSum:
    return estimate_fisher(model, segments, PLAN)


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("layer_group", ["transformer", "cross_attention_kv"])
@pytest.mark.usefixtures("untouched")
def test_fisher_is_the_mean_square_of_single_gradients(
    model: MusicModel,
    twin: MusicModel,
    segments: LatentSegments,
    gradient_by_hand: Gradient,
    mask_padding: bool,
    layer_group: str,
) -> None:
    found = estimate_fisher(
        model, segments, PLAN, layer_group=layer_group, mask_padding=mask_padding
    )
    names = model.layer_group(layer_group)
    expected = {name: torch.zeros_like(found.sums[name]) for name in names}
    for index in range(len(segments)):
        for draw in range(PLAN.draws):
            one = gradient_by_hand(twin, segments.take([index]), PLAN, draw, mask_padding)
            for name in names:
                expected[name] += one[name] ** 2 / (len(segments) * PLAN.draws)
    assert (found.segments, found.draws) == (len(segments), PLAN.draws)
    assert_close(found.diagonal(), expected)


def test_fisher_is_float64_and_nowhere_negative(fisher: FisherSum, model: MusicModel) -> None:
    assert sorted(fisher.sums) == list(model.layer_group("transformer"))
    for name, value in model.weights(model.layer_group("transformer")).items():
        assert fisher.sums[name].shape == value.shape
        assert fisher.sums[name].dtype == torch.float64
        assert float(fisher.sums[name].min()) >= 0


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_fisher_does_not_depend_on_the_batch_size(
    model: MusicModel, segments: LatentSegments, fisher: FisherSum, batch_size: int
) -> None:
    assert_close(estimate_fisher(model, segments, PLAN, batch_size=batch_size).sums, fisher.sums)


@pytest.mark.parametrize("cuts", [[0, 7], [0, 3, 7], [0, 1, 2, 6, 7]])
def test_shards_add_up(
    model: MusicModel, segments: LatentSegments, fisher: FisherSum, cuts: list[int]
) -> None:
    parts = [
        estimate_fisher(model, segments.take(range(start, end)), PLAN)
        for start, end in pairwise(cuts)
    ]
    kept = [{name: value.clone() for name, value in part.sums.items()} for part in parts]
    total = add_fisher(parts)
    assert (total.segments, total.draws) == (fisher.segments, fisher.draws)
    assert_close(total.sums, fisher.sums)
    assert_close(total.diagonal(), fisher.diagonal())
    for part, before in zip(parts, kept, strict=True):
        for name, value in before.items():
            assert torch.equal(part.sums[name], value)


def test_two_runs_give_the_same_bytes(
    model: MusicModel, segments: LatentSegments, fisher: FisherSum, tmp_path: Path
) -> None:
    fisher.save(tmp_path / "first")
    written = {(tmp_path / "first").read_bytes()}
    for _ in range(4):
        estimate_fisher(model, segments, PLAN).save(tmp_path / "again")
        written.add((tmp_path / "again").read_bytes())
    assert len(written) == 1


def test_fisher_comes_back_from_its_file(fisher: FisherSum, tmp_path: Path) -> None:
    fisher.save(tmp_path / "fisher.safetensors")
    again = FisherSum.load(tmp_path / "fisher.safetensors")
    assert (again.segments, again.draws) == (fisher.segments, fisher.draws)
    assert again.sums.keys() == fisher.sums.keys()
    for name, value in fisher.sums.items():
        assert again.sums[name].dtype == torch.float64
        assert torch.equal(again.sums[name], value)


def test_selecting_keeps_what_was_measured(fisher: FisherSum, model: MusicModel) -> None:
    names = model.layer_group("self_attention")
    part = fisher.select(names)
    assert tuple(part.sums) == names
    assert (part.segments, part.draws) == (fisher.segments, fisher.draws)
    for name in names:
        assert torch.equal(part.diagonal()[name], fisher.diagonal()[name])


def test_selecting_what_was_not_measured_says_what_to_do(
    fisher: FisherSum, model: MusicModel
) -> None:
    with pytest.raises(ModelError, match=r"not measured for .* widen fisher.layer_group") as caught:
        fisher.select(model.layer_group("everything"))
    missing = set(model.layer_group("everything")) - set(model.layer_group("transformer"))
    assert any(name in str(caught.value) for name in missing)
    assert f"and {len(missing) - 1} more" in str(caught.value)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_the_mean_gradient_is_the_mean_of_the_examples(
    model: MusicModel, segments: LatentSegments, mask_padding: bool
) -> None:
    names = model.layer_group("everything")
    total = {name: torch.zeros_like(value) for name, value in model.weights(names).items()}
    rows = 0
    for chunk in per_example_gradients(
        model, names, segments, PLAN, mask_padding=mask_padding, batch_size=4
    ):
        rows += len(chunk[names[0]])
        for name in names:
            total[name] += chunk[name].sum(dim=0) / (len(segments) * PLAN.draws)
    assert rows == len(segments) * PLAN.draws
    for batch_size in (1, 8, 100):
        found, _ = mean_gradient(
            model, names, segments, PLAN, mask_padding=mask_padding, batch_size=batch_size
        )
        for name in names:
            scale = float(total[name].abs().max())
            torch.testing.assert_close(found[name], total[name], rtol=1e-3, atol=1e-5 * scale)


def test_measuring_leaves_the_attention_kernels_as_they_were(
    model: MusicModel, segments: LatentSegments
) -> None:
    enabled = torch.backends.cuda.flash_sdp_enabled()
    chunks = per_example_gradients(
        model,
        model.layer_group("cross_attention_kv"),
        segments,
        PLAN,
        mask_padding=True,
        batch_size=4,
    )
    next(chunks)
    assert torch.backends.cuda.flash_sdp_enabled() == enabled
    chunks.close()  # type: ignore[attr-defined]


def test_threads_at_work_side_by_side_change_no_byte(
    spectral_folder: Path, segments: LatentSegments
) -> None:
    models = PerThread(lambda: open_model(spectral_folder))

    def measure(_: int) -> FisherSum:
        return estimate_fisher(models(), segments, NoisePlan(draws=3, seed=1), batch_size=2)

    def together(workers: int) -> list[FisherSum]:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(measure, range(6)))

    first, *others = together(1) + together(2)
    for other in others:
        assert all(torch.equal(first.sums[n], other.sums[n]) for n in first.sums)
