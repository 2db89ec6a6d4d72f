"""The reference model and its training, which may stop anywhere and end in the same bits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableAudioPipeline
from torch import Tensor

from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.reference import (
    CAPTION_TOKENS,
    TIME_RANGE_S,
    ReferenceTraining,
    Trainer,
    caption_tokenizer,
)
from tda_dagster.diffusion.stable_audio import StableAudioModel

MakePipeline = Callable[..., StableAudioPipeline]
TRAINED = ("transformer", "projection_model", "text_encoder")


def weights_of(pipeline: StableAudioPipeline) -> dict[str, Tensor]:
    return {
        f"{module}.{name}": parameter.detach().clone()
        for module in (*TRAINED, "vae")
        for name, parameter in getattr(pipeline, module).named_parameters()
    }


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.fixture(scope="module")
def trainer(
    make_pipeline: MakePipeline,
    tiny_training: ReferenceTraining,
    segments: LatentSegments,
    make_segments: Callable[..., LatentSegments],
) -> Callable[..., Trainer]:
    """A new trainer; keywords change its settings."""

    def make(data: LatentSegments = segments, **changes: Any) -> Trainer:
        training = replace(tiny_training, **changes)
        heldout = make_segments(3, seed=9)
        return Trainer(make_pipeline("spectral", training), data, heldout, training)

    return make


@pytest.fixture(scope="module")
def whole(trainer: Callable[..., Trainer]) -> Trainer:
    """A training that nothing interrupted."""
    trained = trainer()
    points = list(trained.advance(100, every=4))
    assert trained.step == 12
    assert [p.step for p in points] == [4, 8, 12]
    return trained


@pytest.mark.parametrize("stop", [1, 4, 11, 12])
def test_an_interrupted_training_ends_in_the_same_bits(
    trainer: Callable[..., Trainer], whole: Trainer, tmp_path: Path, stop: int
) -> None:
    first = trainer()
    list(first.advance(stop, every=4))
    first.save(tmp_path / "state")
    second = trainer()
    second.load(tmp_path / "state")
    assert second.step == stop
    # safetensors maps files; what becomes of this one must not matter any more.
    (tmp_path / "state").write_bytes(bytes((tmp_path / "state").stat().st_size))
    list(second.advance(100, every=4))
    assert second.step == 12

    second.save(tmp_path / "interrupted")
    whole.save(tmp_path / "whole")
    if stop in (4, 12):  # a point of the curve tells of the steps since the trainer began
        assert second.curve == whole.curve
        assert (tmp_path / "interrupted").read_bytes() == (tmp_path / "whole").read_bytes()
    assert_equal(weights_of(second.pipeline), weights_of(whole.pipeline))
    other = trainer()
    other.load(tmp_path / "whole")
    assert_equal(weights_of(second.finish()), weights_of(other.finish()))


def test_the_same_training_writes_the_same_bytes(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    written = set()
    for number in range(4):
        torch.manual_seed(number)
        one = trainer(steps=2)
        list(one.advance(2))
        one.save(tmp_path / "state")
        written.add((tmp_path / "state").read_bytes())
    assert len(written) == 1


def test_the_loss_falls_on_what_is_learnt_by_heart(
    trainer: Callable[..., Trainer], segments: LatentSegments
) -> None:
    still = segments.take(range(4))  # four chords, held
    still = replace(still, latents=still.latents[:, :, :1].expand_as(still.latents).contiguous())
    one = trainer(still, steps=100, learning_rate=1e-2, head_dim=16, caption_dropout=0.0)
    points = list(one.advance(100, every=20))
    assert [p.step for p in points] == [20, 40, 60, 80, 100]
    assert one.curve == points
    assert points[-1].train_loss < 0.55 * points[0].train_loss
    assert all(p.heldout_loss is not None and p.heldout_loss > 0 for p in points)


def test_a_fresh_model_predicts_no_velocity(make_pipeline: MakePipeline) -> None:
    model = StableAudioModel(make_pipeline())
    noised = torch.randn((2, 4, 16), generator=torch.Generator().manual_seed(0))
    conditioning = model.condition(["solo flute"] * 2, [0.0, 1.0], [3.0, 3.0])
    assert not model(noised, torch.tensor([0.1, 0.9]), conditioning).any()


def test_the_seed_decides_the_first_weights(
    make_pipeline: MakePipeline, tiny_training: ReferenceTraining
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = make_pipeline()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert_equal(weights_of(make_pipeline()), weights_of(one))
    other = make_pipeline("spectral", replace(tiny_training, seed=1))
    same, different = (p.transformer.proj_in.weight for p in (one, other))
    assert not torch.allclose(same, different)


def test_the_average_follows_the_weights(trainer: Callable[..., Trainer]) -> None:
    one = trainer()
    average = {name: value.double() for name, value in weights_of(one.pipeline).items()}
    for step in range(12):
        list(one.advance(1))
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in weights_of(one.pipeline).items():
            average[name] = decay * average[name] + (1 - decay) * value.double()
    for name, value in weights_of(one.finish()).items():
        torch.testing.assert_close(value.double(), average[name], rtol=1e-5, atol=1e-6)


def test_heldout_segments_and_fixed_features_stay_out_of_training(
    trainer: Callable[..., Trainer], make_segments: Callable[..., LatentSegments]
) -> None:
    one = trainer()
    before = weights_of(one.pipeline)
    list(one.advance(12))
    without = Trainer(trainer().pipeline, one.data, make_segments(0), one.settings)
    assert [p.heldout_loss for p in without.advance(12)] == [None]
    assert_equal(weights_of(without.pipeline), weights_of(one.pipeline))
    still = {n for n, v in weights_of(one.pipeline).items() if torch.equal(v, before[n])}
    fixed = {n for n in before if n.startswith("vae.") or n.endswith("time_proj.weight")}
    fixed |= {n for n in before if n.endswith("time_positional_embedding.0.weights")}
    assert still == fixed


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_training_tells_the_denoiser_what_attribution_tells_it(
    trainer: Callable[..., Trainer], segments: LatentSegments, dropout: float
) -> None:
    one = trainer(segments.take([3]), batch_size=1, caption_dropout=dropout)
    conditioning = one.model.condition(
        segments.captions[3:4], segments.seconds_start[3:4], segments.seconds_total[3:4]
    )
    seen: list[dict[str, Tensor]] = []
    one.model.denoiser.register_forward_pre_hook(
        lambda module, arguments, keywords: seen.append(keywords), with_kwargs=True
    )
    list(one.advance(1))
    torch.testing.assert_close(seen[0]["global_hidden_states"], conditioning.global_)
    expected = conditioning.cross if dropout == 0 else torch.zeros_like(conditioning.cross)
    torch.testing.assert_close(seen[0]["encoder_hidden_states"], expected)


def test_every_step_meets_all_noise_levels_and_other_noise(
    trainer: Callable[..., Trainer],
) -> None:
    seen = []
    for seed in (0, 1):
        one = trainer(seed=seed)
        one.model.denoiser.register_forward_pre_hook(
            lambda module, arguments: seen.append(arguments), with_kwargs=False
        )
        for _ in range(5):
            list(one.advance(1))
    assert len(seen) == 10
    for noised, timesteps in seen:
        assert noised.shape == (4, 4, 16)
        strata = (timesteps * 4).floor().sort().values
        torch.testing.assert_close(strata, torch.arange(4.0))
    assert len({tuple(timesteps.tolist()) for _, timesteps in seen}) == 10


CAPTIONS = ("warm slow piano, in a minor key", "Étude for 2 violins (allegro)", "a b c d")


@pytest.mark.parametrize("caption", [*CAPTIONS, "slow violins, a piano", "a"])
def test_captions_come_back_from_their_tokens(caption: str) -> None:
    tokenizer = caption_tokenizer(CAPTIONS)
    tokens = tokenizer(caption).input_ids
    words = caption.split()
    if set(words) <= {word for known in CAPTIONS for word in known.split()}:
        assert len(tokens) == len(words) + 1
    assert tokenizer.unk_token_id not in tokens
    assert tokens[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(tokens, skip_special_tokens=True) == caption


@pytest.mark.parametrize("caption", ["oud", "naive viol", "日本の音楽", "x" * 200, "", " ", "\n"])
def test_unseen_words_are_spelt_and_unseen_characters_unknown(
    make_pipeline: MakePipeline, caption: str
) -> None:
    tokenizer = caption_tokenizer(CAPTIONS)
    tokens = tokenizer(caption, truncation=True, max_length=CAPTION_TOKENS).input_ids
    assert len(tokens) <= CAPTION_TOKENS
    known = {character for known in CAPTIONS for character in known} | {"\n"}
    assert (tokenizer.unk_token_id in tokens) == (not set(caption) <= known)
    conditioning = StableAudioModel(make_pipeline()).condition([caption], [0.0], [1.0])
    assert conditioning.cross.shape == (1, CAPTION_TOKENS + 2, 64)
    assert bool(conditioning.cross.isfinite().all())


def test_a_tokenizer_of_no_words_works() -> None:
    assert caption_tokenizer(["", ""])("anything").input_ids


def test_the_tokenizer_does_not_depend_on_the_order_of_captions() -> None:
    one, other = caption_tokenizer(CAPTIONS), caption_tokenizer(CAPTIONS[::-1])
    assert one.get_vocab() == other.get_vocab()


def test_times_are_told_apart_within_the_range_and_held_at_its_end(
    make_pipeline: MakePipeline,
) -> None:
    pipeline = make_pipeline()
    config = pipeline.projection_model.config
    assert (config.min_value, config.max_value) == TIME_RANGE_S
    model = StableAudioModel(pipeline)
    low, high = TIME_RANGE_S
    starts = [low, low + 1, high - 1, high, high + 1, 100 * high]
    places = model.condition(["a"] * len(starts), starts, [high] * len(starts)).global_
    for place in places[4:]:
        assert torch.equal(place, places[3])
    for index in range(3):
        assert not torch.allclose(places[index], places[index + 1])
