"""Opening pipelines, and what a `MusicModel` promises, for two kinds of autoencoder."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor, nn

from tda_dagster.diffusion.latents import Conditioning, LatentSegments
from tda_dagster.diffusion.model import ModelError, MusicModel
from tda_dagster.diffusion.opening import autoencoder_of, copy_pipeline, open_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchsde")

MODULES = ("transformer", "projection_model", "text_encoder", "vae")


@pytest.fixture(scope="module", params=["spectral", "oobleck"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"{request.param}_folder")
    return found


@pytest.fixture(scope="module")
def opened(folder: Path) -> MusicModel:
    return open_model(folder)


@pytest.fixture
def noised() -> Tensor:
    return torch.randn((2, 4, 16), generator=torch.Generator().manual_seed(0))


def calls_of(module: nn.Module, action: Callable[[], object]) -> list[dict[str, Any]]:
    """The arguments of every call of the module during the action, by name."""
    calls = []

    def record(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        names = ("hidden_states", "timestep")
        calls.append(dict(zip(names, arguments, strict=False)) | keywords)

    handle = module.register_forward_pre_hook(record, with_kwargs=True)
    try:
        action()
    finally:
        handle.remove()
    return calls


def condition_one(model: MusicModel) -> Conditioning:
    return model.condition(["a fast violin dance"], [0.0], [0.1])


def generate(model: MusicModel, seed: int = 3, guidance_scale: float = 2.0) -> Tensor:
    return model.generate(
        "a fast violin dance",
        negative_prompt="",
        seed=seed,
        seconds=0.1,
        steps=4,
        guidance_scale=guidance_scale,
    )


def test_the_audio_format_is_the_pipelines(spectral_folder: Path, oobleck_folder: Path) -> None:
    spectral, oobleck = open_model(spectral_folder), open_model(oobleck_folder)
    assert (spectral.sampling_rate, spectral.audio_channels, spectral.hop_length) == (1000, 1, 32)
    assert (oobleck.sampling_rate, oobleck.audio_channels, oobleck.hop_length) == (1000, 2, 8)
    for model in (spectral, oobleck):
        assert model.latent_shape == (4, 16)
        assert model.window_samples == 16 * model.hop_length
        assert model.window_seconds == model.window_samples / 1000
        assert model.device == torch.device("cpu")


def test_a_window_of_audio_is_a_segment_of_latents(opened: MusicModel) -> None:
    generator = torch.Generator().manual_seed(0)
    audio = torch.rand((3, opened.audio_channels, opened.window_samples), generator=generator) - 0.5
    latents = opened.encode(audio)
    assert latents.shape == (3, *opened.latent_shape)
    assert latents.dtype == torch.float32
    assert torch.equal(opened.encode(audio), latents)
    assert opened.decode(latents).shape == audio.shape


def test_opening_gives_the_weights_that_were_saved(
    opened: MusicModel, folder: Path, tmp_path: Path
) -> None:
    opened.pipeline.save_pretrained(tmp_path / "again")
    again = open_model(tmp_path / "again")
    for name in MODULES:
        state = getattr(opened.pipeline, name).state_dict()
        other = getattr(again.pipeline, name).state_dict()
        assert list(state) == list(other)
        for key, value in state.items():
            assert torch.equal(other[key], value)
            assert not other[key].requires_grad
        for file in sorted((folder / name).glob("*.safetensors")):
            copy = tmp_path / "again" / name / file.name
            assert copy.read_bytes() == file.read_bytes()


def test_conditioning_is_what_the_pipeline_computes(
    opened: MusicModel, segments: LatentSegments
) -> None:
    pipeline, device = opened.pipeline, torch.device("cpu")
    found = opened.condition(segments.captions, segments.seconds_start, segments.seconds_total)
    assert found.cross.shape[0] == found.global_.shape[0] == len(segments)
    for row in range(len(segments)):
        with torch.no_grad():
            text = pipeline.encode_prompt(segments.captions[row], device, False)
            start, end = pipeline.encode_duration(
                segments.seconds_start[row], segments.seconds_total[row], device, False, 1
            )
        cross, global_ = torch.cat([text, start, end], dim=1), torch.cat([start, end], dim=2)
        torch.testing.assert_close(found.cross[row], cross[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.global_[row], global_[0], rtol=1e-5, atol=1e-6)
    one, other = (found.cross[row] for row in (0, 2))
    assert not torch.allclose(one, other)


def test_the_denoiser_is_called_as_while_generating(opened: MusicModel) -> None:
    sampled = calls_of(opened.denoiser, lambda: generate(opened, guidance_scale=1.0))
    assert len(sampled) == 4
    for call in sampled:
        t = call["timestep"]
        assert 0 < float(t) < 1
        predict = partial(opened, call["hidden_states"], t, condition_one(opened))
        (ours,) = calls_of(opened.denoiser, predict)
        assert ours.keys() == call.keys()
        for name in ("hidden_states", "encoder_hidden_states", "global_hidden_states"):
            torch.testing.assert_close(ours[name], call[name])
        for one, other in zip(ours["rotary_embedding"], call["rotary_embedding"], strict=True):
            assert torch.equal(one, other)


def test_guidance_compares_with_no_caption_and_no_times_but_the_global_token(
    opened: MusicModel,
) -> None:
    """What dropped captions are trained to stand for."""
    conditioning = condition_one(opened)
    for call in calls_of(opened.denoiser, lambda: generate(opened)):
        without, with_caption = call["encoder_hidden_states"]
        assert not without.any()
        torch.testing.assert_close(with_caption, conditioning.cross[0])
        torch.testing.assert_close(call["global_hidden_states"][0], conditioning.global_[0])
        torch.testing.assert_close(call["global_hidden_states"][1], conditioning.global_[0])


def test_prediction_is_the_denoiser_with_other_weights(
    opened: MusicModel, segments: LatentSegments, noised: Tensor
) -> None:
    timesteps = torch.tensor([0.2, 0.7])
    conditioning = opened.condition(
        segments.captions[:2], segments.seconds_start[:2], segments.seconds_total[:2]
    )
    names = opened.layer_group("cross_attention")
    weights = opened.weights(names)
    plain = opened(noised, timesteps, conditioning)
    assert plain.shape == noised.shape
    assert torch.equal(opened.predict(weights, noised, timesteps, conditioning), plain)
    other = {name: 1.5 * value for name, value in weights.items()}
    predicted = opened.predict(other, noised, timesteps, conditioning)
    assert not torch.allclose(predicted, plain)
    with opened.shifted({name: 0.5 * value for name, value in weights.items()}):
        torch.testing.assert_close(opened(noised, timesteps, conditioning), predicted)
    assert torch.equal(opened(noised, timesteps, conditioning), plain)


def test_the_last_block_s_activations_and_the_output_layer_make_the_velocity(
    opened: MusicModel, segments: LatentSegments, noised: Tensor
) -> None:
    timesteps = torch.tensor([0.2, 0.7])
    conditioning = opened.condition(
        segments.captions[:2], segments.seconds_start[:2], segments.seconds_total[:2]
    )
    activations = opened.activations(noised, timesteps, conditioning)
    out = opened.weights([opened.output_layer])[opened.output_layer]
    assert [a.shape for a in activations] == [(2, 16, out.shape[1])] * len(opened.blocks)
    frames = (activations[-1] @ out.T).transpose(1, 2)
    velocity = opened.pipeline.transformer.postprocess_conv(frames) + frames
    torch.testing.assert_close(velocity, opened(noised, timesteps, conditioning))


def test_looking_inside_leaves_nothing_behind_even_after_an_error(
    opened: MusicModel, noised: Tensor
) -> None:
    conditioning = condition_one(opened)
    with pytest.raises(RuntimeError):
        opened.activations(noised, torch.tensor([0.2, 0.7]), conditioning[:0])
    assert all(not block._forward_hooks for block in opened.blocks)


def test_shifted_weights_come_back_even_after_an_error(opened: MusicModel) -> None:
    before = {name: value.clone() for name, value in opened.denoiser.state_dict().items()}
    names = opened.layer_group("everything")
    delta = {name: torch.full_like(value, 1 / 3) for name, value in opened.weights(names).items()}

    def fail_inside() -> None:
        with opened.shifted(delta):
            for name in names:
                assert torch.equal(opened.denoiser.state_dict()[name], before[name] + delta[name])
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    for name, value in opened.denoiser.state_dict().items():
        assert torch.equal(value, before[name])


def test_generation_depends_on_its_seed_alone(opened: MusicModel) -> None:
    torch.manual_seed(1)
    first = generate(opened)
    torch.manual_seed(2)
    assert first.shape == opened.latent_shape
    assert bool(first.isfinite().all())
    assert torch.equal(generate(opened), first)
    assert not torch.allclose(generate(opened, seed=4), first)


def test_layer_groups(opened: MusicModel) -> None:
    groups = opened.layer_groups()
    assert sorted(groups) == [
        "cross_attention",
        "cross_attention_kv",
        "everything",
        "feed_forward",
        "self_attention",
        "transformer",
    ]
    for names in groups.values():
        assert names
        assert list(names) == sorted(set(names))
    sets = {name: set(names) for name, names in groups.items()}
    assert sets["cross_attention_kv"] < sets["cross_attention"] < sets["transformer"]
    assert sets["transformer"] < sets["everything"]
    parts = [sets[name] for name in ("cross_attention", "self_attention", "feed_forward")]
    assert sum(map(len, parts)) == len(set.union(*parts))
    norms = sets["transformer"] - set.union(*parts)
    assert all(".norm" in name for name in norms)
    # The Fourier features of the timestep are a buffer in all but name.
    learnt = {name for name, _ in opened.denoiser.named_parameters()} - {"time_proj.weight"}
    assert sets["everything"] == learnt
    blocks = opened.pipeline.transformer.transformer_blocks
    assert sets["transformer"] == {
        f"transformer_blocks.{index}.{name}"
        for index, block in enumerate(blocks)
        for name in block.state_dict()
    }
    keys_and_values = {
        f"transformer_blocks.{index}.attn2.{part}.weight"
        for index in range(len(blocks))
        for part in ("to_k", "to_v")
    }
    assert sets["cross_attention_kv"] == keys_and_values


def test_an_unknown_layer_group_lists_those_that_exist(opened: MusicModel) -> None:
    with pytest.raises(ModelError, match="'atention' is not a layer group") as caught:
        opened.layer_group("atention")
    for name, members in opened.layer_groups().items():
        assert f"{name} ({opened.parameter_count(members):,})" in str(caught.value)


def test_a_pipeline_opens_from_a_url(spectral_folder: Path, model: MusicModel) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(spectral_folder), "/bucket/pipeline", recursive=True)
    try:
        opened = open_model("memory://bucket/pipeline")
    finally:
        memory.rm("/bucket", recursive=True)
    for name, value in model.denoiser.state_dict().items():
        assert torch.equal(opened.denoiser.state_dict()[name], value)


def test_a_pipeline_is_copied(oobleck_folder: Path, tmp_path: Path) -> None:
    copy_pipeline(oobleck_folder, tmp_path / "copy")
    names = [p.relative_to(oobleck_folder) for p in oobleck_folder.rglob("*") if p.is_file()]
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (oobleck_folder / name).read_bytes()
    assert open_model(tmp_path / "copy").latent_shape == (4, 16)


def test_the_autoencoder_of_a_pipeline(oobleck_folder: Path, tmp_path: Path) -> None:
    assert autoencoder_of(oobleck_folder, tmp_path / "vae") == 16
    assert AutoencoderOobleck.from_pretrained(tmp_path / "vae").hop_length == 8


def _without_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def _broken_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{", encoding="utf-8")


def _of_another_class(folder: Path) -> None:
    path = folder / "model_index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(index | {"_class_name": "AudioLDM2Pipeline"}), encoding="utf-8")


def _without_transformer(folder: Path) -> None:
    shutil.rmtree(folder / "transformer")


def _broken_weights(folder: Path) -> None:
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"abc")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_without_index, "not a diffusers pipeline directory: it has no model_index.json"),
        (_broken_index, "model_index.json cannot be read"),
        (_of_another_class, "a AudioLDM2Pipeline cannot be attributed yet; supported: StableAudio"),
        (_without_transformer, "transformer: the folder transformer is missing"),
        (_broken_weights, "transformer: diffusion_pytorch_model.safetensors is cut off"),
    ],
)
def test_what_cannot_be_opened_is_named(
    spectral_folder: Path, tmp_path: Path, harm: Callable[[Path], None], message: str
) -> None:
    folder = shutil.copytree(spectral_folder, tmp_path / "pipeline")
    harm(folder)
    with pytest.raises(ModelError, match=message) as caught:
        open_model(folder)
    assert str(caught.value).startswith(str(folder))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("no/such/folder", "no such folder"),
        ("memory://no-such-bucket/pipeline", "cannot be fetched"),
        ("nosuch://bucket/pipeline", "cannot be fetched"),
    ],
)
def test_places_that_do_not_exist_are_named(uri: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"{uri}: .*{message}"):
        open_model(uri)


def test_an_autoencoder_is_not_taken_from_what_cannot_be_attributed(
    spectral_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(spectral_folder, tmp_path / "pipeline")
    _of_another_class(folder)
    with pytest.raises(ModelError, match="cannot be attributed yet"):
        autoencoder_of(folder, tmp_path / "vae")
