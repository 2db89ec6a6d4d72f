"""Training on a part of the data: the base model's own training, but for the data."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.reference import ReferenceTraining, Trainer, build_pipeline
from tda_dagster.diffusion.retraining import Retrainer, trained_weights

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def autoencoder(make_pipeline, tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("autoencoder")
    make_pipeline("spectral").vae.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def retrainer(
    autoencoder: Path, segments: LatentSegments, tiny_training: ReferenceTraining
) -> Retrainer:
    return Retrainer(autoencoder, segments, tiny_training, seeds=2)


def test_on_all_data_it_is_the_base_models_training(
    retrainer: Retrainer,
    autoencoder: Path,
    segments: LatentSegments,
    tiny_training: ReferenceTraining,
) -> None:
    from tda_dagster.diffusion.autoencoder import open_autoencoder

    pipeline = build_pipeline(
        open_autoencoder(autoencoder), segments.captions, segments.latents.shape[2], tiny_training
    )
    base = Trainer(pipeline, segments, segments.take([]), tiny_training)
    list(base.advance(tiny_training.steps))
    expected = trained_weights(base.finish())
    found = retrainer.train(list(range(len(segments))), repeat=0)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_what_was_trained_before_leaves_no_trace(retrainer: Retrainer) -> None:
    first = retrainer.train([0, 1, 2], repeat=0)
    other = retrainer.train([3, 4, 5], repeat=1)
    again = retrainer.train([0, 1, 2], repeat=0)
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert any(not torch.equal(other[name], value) for name, value in first.items())


def test_segments_that_are_left_out_have_no_part_in_it(
    autoencoder: Path, segments: LatentSegments, tiny_training: ReferenceTraining
) -> None:
    """Whatever the music of the others is: the weights are the same."""
    from dataclasses import replace

    kept = [0, 2, 3, 6]
    noise = torch.randn(segments.latents.shape, generator=torch.Generator().manual_seed(7))
    noise[kept] = segments.latents[kept]
    changed = replace(segments, latents=noise)
    one, other = (
        Retrainer(autoencoder, data, tiny_training, seeds=1).train(kept, repeat=0)
        for data in (segments, changed)
    )
    assert all(torch.equal(one[name], value) for name, value in other.items())


def test_weights_can_be_kept_and_opened_again(
    retrainer: Retrainer, segments: LatentSegments, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from tda_dagster.attribution.sweep import sweep
    from tda_dagster.diffusion.noise import NoisePlan

    weights = retrainer.train([0, 1, 2], repeat=0)
    save_file(weights, tmp_path / "weights.safetensors")
    plan = NoisePlan(draws=2, seed=0)
    before = sweep(retrainer.model(weights), segments, plan)
    retrainer.train([4, 5], repeat=1)
    after = sweep(retrainer.model(load_file(tmp_path / "weights.safetensors")), segments, plan)
    assert before.equals(after)
