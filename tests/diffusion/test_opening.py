"""Pipelines as people keep them: sound ones open in every layout, faulty ones are named."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from tda_dagster.cli import app
from tda_dagster.diffusion.autoencoder import open_autoencoder
from tda_dagster.diffusion.model import ModelError, MusicModel
from tda_dagster.diffusion.opening import (
    autoencoder_of,
    copy_pipeline,
    locate_pipeline,
    open_model,
    pipeline_stamp,
)
from tda_dagster.errors import TdaError

MODULES = ("transformer", "projection_model", "text_encoder", "vae")
WEIGHTS = "diffusion_pytorch_model.safetensors"
TEXT_WEIGHTS = "model.safetensors"
Harm = Callable[[Path], object]


@pytest.fixture
def folder(oobleck_folder: Path, tmp_path: Path) -> Path:
    """A sound pipeline that a test may change."""
    return Path(shutil.copytree(oobleck_folder, tmp_path / "pipeline"))


@pytest.fixture(scope="module")
def opened(oobleck_folder: Path) -> MusicModel:
    return open_model(oobleck_folder)


def change_json(path: Path, **changes: object) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(found | changes), encoding="utf-8")


def change_tensors(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_vocabulary(folder: Path, change: Callable[[list[Any]], list[Any]]) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    found["model"]["vocab"] = change(found["model"]["vocab"])
    path.write_text(json.dumps(found), encoding="utf-8")


def without(part: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: t for name, t in tensors.items() if part not in name}


def replaced(name: str, change: Callable[[Tensor], Tensor]) -> Callable[..., dict[str, Tensor]]:
    return lambda tensors: tensors | {name: change(tensors[name])}


def linked(name: str, target: str) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(target)

    return harm


def spoilt(value: float) -> Callable[[Tensor], Tensor]:
    def spoil(tensor: Tensor) -> Tensor:
        spoilt = tensor.clone()
        spoilt.view(-1)[-1] = value
        return spoilt

    return spoil


FAULTS: dict[str, tuple[Harm, str]] = {
    "a tensor of the text encoder is missing": (
        lambda f: change_tensors(f / "text_encoder" / TEXT_WEIGHTS, without("block.1.layer.0")),
        r"text_encoder: encoder\.block\.1\.layer\.0\.\S+ and 4 other tensors are missing",
    ),
    "a tensor of the transformer is missing": (
        lambda f: change_tensors(f / "transformer" / WEIGHTS, without("proj_out.weight")),
        r"transformer: proj_out\.weight is missing",
    ),
    "a tensor of the autoencoder is missing": (
        lambda f: change_tensors(f / "vae" / WEIGHTS, without("encoder.conv1.bias")),
        r"vae: encoder\.conv1\.bias is missing",
    ),
    "a tensor of the projection is missing": (
        lambda f: change_tensors(f / "projection_model" / WEIGHTS, without("start_number")),
        r"projection_model: start_number_conditioner\.\S+ and \d other tensors are missing",
    ),
    "more layers than the settings say": (
        lambda f: change_json(f / "transformer" / "config.json", num_layers=1),
        r"transformer: transformer_blocks\.1\.\S+ and \d+ other tensors are in the weights, but",
    ),
    "another shape": (
        lambda f: change_tensors(
            f / "transformer" / WEIGHTS, replaced("proj_out.weight", lambda t: t[:-1].clone())
        ),
        r"transformer: proj_out\.weight has the shape \[3, 16\], but config\.json asks for \[4, 16",
    ),
    "not a number": (
        lambda f: change_tensors(
            f / "transformer" / WEIGHTS, replaced("proj_out.weight", spoilt(float("nan")))
        ),
        r"transformer: proj_out\.weight: weights are not finite \(1 of 64 numbers\)",
    ),
    "infinity": (
        lambda f: change_tensors(
            f / "vae" / WEIGHTS, replaced("decoder.conv1.bias", spoilt(float("inf")))
        ),
        r"vae: decoder\.conv1\.bias: weights are not finite",
    ),
    "quantised": (
        lambda f: change_tensors(
            f / "transformer" / WEIGHTS,
            replaced("proj_out.weight", lambda t: t.to(torch.float8_e4m3fn)),
        ),
        r"transformer: proj_out\.weight is stored as F8_E4M3",
    ),
    "cut off": (
        lambda f: (f / "vae" / WEIGHTS).write_bytes((f / "vae" / WEIGHTS).read_bytes()[:-9]),
        rf"vae: {WEIGHTS} is cut off",
    ),
    "empty": (lambda f: (f / "vae" / WEIGHTS).write_bytes(b""), rf"vae: {WEIGHTS} is empty"),
    "a pointer": (
        lambda f: (f / "vae" / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"),
        rf"vae: {WEIGHTS} is a Git LFS pointer",
    ),
    "no weights": (
        lambda f: (f / "vae" / WEIGHTS).unlink(),
        rf"vae: its weights \({WEIGHTS}\) are missing",
    ),
    "a pipe": (
        lambda f: ((f / "vae" / WEIGHTS).unlink(), os.mkfifo(f / "vae" / WEIGHTS)),
        rf"vae: {WEIGHTS} is not a file",
    ),
    "no settings": (
        lambda f: (f / "transformer" / "config.json").unlink(),
        r"transformer: config\.json is missing",
    ),
    "nonsense in the settings": (
        lambda f: change_json(f / "transformer" / "config.json", num_layers="two"),
        r"transformer: config\.json: no module can be made",
    ),
    "a billion layers": (
        lambda f: change_json(f / "transformer" / "config.json", num_layers=10**9),
        r"transformer: config\.json: num_layers is larger than",
    ),
    "a window in samples": (
        lambda f: change_json(f / "transformer" / "config.json", sample_size=2**24),
        r"transformer: sample_size is 16777216, which is a window of 134,218 s",
    ),
    "no frames": (
        lambda f: change_json(f / "transformer" / "config.json", sample_size=0),
        r"transformer: sample_size is 0",
    ),
    "no tokenizer": (
        lambda f: shutil.rmtree(f / "tokenizer"),
        r"tokenizer: the folder tokenizer is missing",
    ),
    "no vocabulary": (
        lambda f: (f / "tokenizer" / "tokenizer.json").unlink(),
        r"tokenizer: its vocabulary is missing",
    ),
    "an emptied vocabulary": (
        lambda f: change_vocabulary(f, lambda pieces: pieces[:4]),
        r"tokenizer: its vocabulary has 4 pieces, but the text encoder knows \d+",
    ),
    "another model's vocabulary": (
        lambda f: change_vocabulary(f, lambda p: [*p, *([f"▁word{i}", -9.0] for i in range(50))]),
        r"tokenizer: '▁word0' is number \d+ of its vocabulary, but the text encoder knows",
    ),
    "no length of captions": (
        lambda f: (f / "tokenizer" / "tokenizer_config.json").unlink(),
        r"tokenizer: tokenizer_config\.json: model_max_length is missing",
    ),
    "a text encoder that is deaf": (
        lambda f: change_tensors(
            f / "text_encoder" / TEXT_WEIGHTS, replaced("shared.weight", torch.zeros_like)
        ),
        r"text_encoder: the captions '.+' and '.+' are the same to the model",
    ),
    "trained to predict noise": (
        lambda f: change_json(f / "scheduler" / "scheduler_config.json", prediction_type="epsilon"),
        r"scheduler: prediction_type is 'epsilon', and the objective needs 'v_prediction'",
    ),
    "another scale of noise": (
        lambda f: change_json(f / "scheduler" / "scheduler_config.json", sigma_data=0.5),
        r"scheduler: sigma_data is '0\.5'",
    ),
    "other noise levels": (
        lambda f: change_json(
            f / "model_index.json", scheduler=["diffusers", "EDMDPMSolverMultistepScheduler"]
        ),
        r"scheduler: it is EDMDPMSolverMultistepScheduler, whose noise levels are not those",
    ),
    "a component that is null": (
        lambda f: change_json(f / "model_index.json", vae=[None, None]),
        r"vae: model_index\.json does not list it",
    ),
    "a class of anybody's module": (
        lambda f: change_json(f / "model_index.json", vae=["antigravity", "Vae"]),
        r"vae: model_index\.json takes Vae from 'antigravity', which is not imported",
    ),
    "a function for a model": (
        lambda f: change_json(f / "model_index.json", text_encoder=["transformers", "pipeline"]),
        r"text_encoder: model_index\.json names pipeline, which is no model",
    ),
    "a pipeline with code of its own": (
        lambda f: change_json(f / "model_index.json", _class_name=["pipeline", "Mine"]),
        r"model_index\.json: it is a custom pipeline whose code comes with it; .* never executed",
    ),
    "a link out of the folder": (
        linked("vae/config.json", "/etc/hostname"),
        r"vae/config\.json is a link to /etc/hostname, outside",
    ),
    "a folder that is elsewhere": (
        linked("vae", "../elsewhere"),
        r"vae is a link to \.\./elsewhere",
    ),
    "a link to nothing": (
        linked(f"vae/{WEIGHTS}", "../../blobs/1"),
        rf"vae/{WEIGHTS} is a link to \.\./\.\./blobs/1, where there is nothing",
    ),
    "a link to the folder's parent": (linked("up", ".."), r"up is a link to \.\., outside"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_pipeline_is_named_in_one_sentence(folder: Path, fault: str) -> None:
    harm, message = FAULTS[fault]
    elsewhere = folder.parent / "elsewhere"
    shutil.copytree(folder / "vae", elsewhere)
    if fault == "a link to nothing":
        shutil.rmtree(elsewhere)
    harm(folder)
    with pytest.raises(ModelError, match=message) as caught:
        autoencoder_of(folder, folder.parent / "out")
    said = str(caught.value)
    assert said.startswith(f"{folder}: ")
    assert "\n" not in said
    assert "Error" not in said
    assert "antigravity" not in sys.modules
    assert not (folder.parent / "out").exists()


def in_precision(dtype: torch.dtype) -> Harm:
    def harm(folder: Path) -> None:
        for path in folder.rglob("*.safetensors"):
            change_tensors(path, lambda tensors: {n: t.to(dtype) for n, t in tensors.items()})

    return harm


def as_variant(folder: Path) -> None:
    for path in list(folder.rglob("*.safetensors")):
        path.rename(path.with_suffix(".fp16.safetensors"))


def as_pickle(folder: Path) -> None:
    for path in list(folder.rglob("*.safetensors")):
        name = "pytorch_model" if path.name == TEXT_WEIGHTS else path.stem
        torch.save(load_file(path), path.with_name(f"{name}.bin"))
        path.unlink()


def as_shards(folder: Path) -> None:
    """Three shards per module, with the index that the libraries write."""
    for path in list(folder.rglob("*.safetensors")):
        tensors, where = load_file(path), {}
        for number in range(3):
            name = f"{path.stem}-{number + 1:05d}-of-00003.safetensors"
            part = dict(sorted(tensors.items())[number::3])
            save_file(part, path.with_name(name), metadata={"format": "pt"})
            where |= dict.fromkeys(part, name)
        index = {"metadata": {}, "weight_map": where}
        path.with_name(f"{path.name}.index.json").write_text(json.dumps(index))
        path.unlink()


def as_variant_shards(folder: Path) -> None:
    as_shards(folder)
    for index in folder.rglob("*.safetensors.index.json"):
        index.rename(index.with_name(index.name.replace("index.json", "index.fp16.json")))


def as_pickled_shards(folder: Path) -> None:
    as_shards(folder)
    for index in list(folder.rglob("*.safetensors.index.json")):
        text = index.name == f"{TEXT_WEIGHTS}.index.json"
        stem = "pytorch_model" if text else "diffusion_pytorch_model"
        listed = json.loads(index.read_text())
        for name in set(listed["weight_map"].values()):
            part = index.with_name(name)
            torch.save(load_file(part), part.with_suffix(".bin"))
            part.unlink()
        renamed = {k: v.replace(".safetensors", ".bin") for k, v in listed["weight_map"].items()}
        index.with_name(f"{stem}.bin.index.json").write_text(json.dumps({"weight_map": renamed}))
        index.unlink()


def with_links_inside(folder: Path) -> None:
    (folder / "vae" / WEIGHTS).rename(folder / "kept.safetensors")
    (folder / "vae" / WEIGHTS).symlink_to("../kept.safetensors")


def with_things_beside(folder: Path) -> None:
    """What a clone from the hub has besides, and other precisions of the same weights."""
    (folder / ".git").mkdir()
    (folder / ".git" / "out").symlink_to("/etc/hostname")
    (folder / "README.md").write_text("# mine")
    (folder / "model.safetensors").write_bytes(b"a whole checkpoint")
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"abc")
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"abc")
    (folder / "text_encoder" / "evil.py").write_text("raise SystemExit")
    change_json(folder / "text_encoder" / "config.json", auto_map={"AutoModel": "evil.Model"})
    change_json(folder / "model_index.json", watermark=["antigravity", "X"], nothing=[None, None])


LAYOUTS: dict[str, tuple[Harm, float]] = {
    "as saved": (lambda _: None, 0.0),
    "variant": (as_variant, 0.0),
    "pickle": (as_pickle, 0.0),
    "shards": (as_shards, 0.0),
    "variant shards": (as_variant_shards, 0.0),
    "pickled shards": (as_pickled_shards, 0.0),
    "links inside": (with_links_inside, 0.0),
    "things beside": (with_things_beside, 0.0),
    "float64": (in_precision(torch.float64), 0.0),
    "float16": (in_precision(torch.float16), 1e-3),
    "bfloat16": (in_precision(torch.bfloat16), 1e-2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sound_pipeline_opens_and_is_copied_however_it_is_kept(
    folder: Path, opened: MusicModel, tmp_path: Path, layout: str
) -> None:
    lay_out, tolerance = LAYOUTS[layout]
    lay_out(folder)
    copy_pipeline(folder, tmp_path / "copy")
    autoencoder_of(folder, tmp_path / "vae")
    copied = sorted(p for p in (tmp_path / "copy").rglob("*") if not p.is_dir())
    assert not any(p.is_symlink() for p in copied)
    assert {p.suffix for p in copied} == {".json", ".safetensors"}
    assert not any("fp16" in p.name for p in copied)
    assert "antigravity" not in sys.modules
    for model in (open_model(folder), open_model(tmp_path / "copy")):
        for name in MODULES:
            state = getattr(model.pipeline, name).state_dict()
            for key, value in getattr(opened.pipeline, name).state_dict().items():
                assert state[key].dtype == torch.float32
                torch.testing.assert_close(state[key], value, rtol=tolerance, atol=tolerance)
    again = open_autoencoder(tmp_path / "vae").state_dict()
    for key, value in opened.pipeline.vae.state_dict().items():
        torch.testing.assert_close(again[key], value, rtol=tolerance, atol=tolerance)


class _Harmful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_with_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "vae" / WEIGHTS).unlink()
    torch.save({"a": _Harmful(tmp_path / "mark")}, folder / "vae" / "diffusion_pytorch_model.bin")
    for use in (open_model, lambda f: copy_pipeline(f, tmp_path / "copy")):
        with pytest.raises(ModelError, match=r"vae: .*\.bin holds more than tensors"):
            use(folder)
    assert not (tmp_path / "mark").exists()


def test_several_variants_and_nothing_else_are_refused(folder: Path) -> None:
    weights = (folder / "vae" / WEIGHTS).read_bytes()
    (folder / "vae" / WEIGHTS).unlink()
    for variant in ("fp16", "bf16"):
        (folder / "vae" / f"diffusion_pytorch_model.{variant}.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match=r"vae: there are only variants .* \(bf16, fp16\)"):
        open_model(folder)


@pytest.mark.parametrize("harm", ["lost shard", "lost index", "index that leaves the folder"])
def test_incomplete_shards_are_named(folder: Path, harm: str) -> None:
    as_shards(folder)
    index = folder / "transformer" / f"{WEIGHTS}.index.json"
    second = "diffusion_pytorch_model-00002-of-00003.safetensors"
    if harm == "lost shard":
        (folder / "transformer" / second).unlink()
        message = f"transformer: {second} is missing"
    elif harm == "lost index":
        index.unlink()
        message = rf"transformer: \S+ is a part of the weights, and {index.name} is missing"
    else:
        change_json(index, weight_map={"proj_out.weight": "../vae/config.json"})
        message = r"transformer: .* lists '\.\./vae/config\.json', which is no file beside it"
    with pytest.raises(ModelError, match=message):
        open_model(folder)


def hub_cache(root: Path, source: Path, name: str) -> Path:
    """The folder of a snapshot as the hub's client lays it out: links to blobs."""
    repository = root / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    for path in source.rglob("*"):
        if path.is_file():
            blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            shutil.copyfile(path, blob)
            link = snapshot / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_snapshot_of_the_hub_s_cache_opens(oobleck_folder: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path, oobleck_folder, "owner/name")
    copy_pipeline(snapshot, tmp_path / "copy")
    assert open_model(snapshot).latent_shape == open_model(tmp_path / "copy").latent_shape
    link = snapshot / "vae" / WEIGHTS
    blob = link.resolve()
    # Of a link, the stamp is that of what it leads to.
    before = pipeline_stamp(snapshot)
    os.utime(blob, ns=(1, 1))
    assert pipeline_stamp(snapshot) != before
    # Links to anywhere else, though it be called blobs, are refused.
    link.unlink()
    outside = tmp_path / "blobs"
    outside.mkdir()
    blob.rename(outside / blob.name)
    link.symlink_to(outside / blob.name)
    with pytest.raises(ModelError, match=rf"vae/{WEIGHTS} is a link to"):
        open_model(snapshot)


@pytest.mark.slow
def test_a_model_is_taken_from_the_hub(oobleck_folder: Path, tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    hub_cache(tmp_path / "hub", oobleck_folder, "owner/name")
    code = (
        "from tda_dagster.diffusion.opening import open_model, pipeline_stamp;"
        "print(open_model('owner/name').latent_shape, open_model('hf://owner/name').latent_shape);"
        "print(pipeline_stamp('owner/name'))"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}

    def run() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not done.returncode, done.stderr
        return done.stdout.splitlines()

    shapes, stamp = run()
    assert shapes == "(4, 16) (4, 16)"
    repository = tmp_path / "hub" / "models--owner--name"
    (snapshot,) = (repository / "snapshots").iterdir()
    snapshot.rename(snapshot.with_name("f" * 40))
    (repository / "refs" / "main").write_text("f" * 40)
    assert run()[1] != stamp


def test_what_a_pipeline_s_name_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "models" / "mine").mkdir(parents=True)
    for name, meant in [
        ("models/mine", f"{tmp_path}/models/mine"),
        ("models/mine/", f"{tmp_path}/models/mine"),
        ("./models/gone", f"{tmp_path}/models/gone"),
        ("~/mine", f"{tmp_path}/home/mine"),
        ("/abs/mine", "/abs/mine"),
        ("a/b/c", f"{tmp_path}/a/b/c"),
        ("mine", f"{tmp_path}/mine"),
        (f"file://{tmp_path}/my%20models", f"{tmp_path}/my models"),
        ("s3://bucket/mine", "s3://bucket/mine"),
        ("stabilityai/stable-audio-open-1.0", "hf://stabilityai/stable-audio-open-1.0"),
        ("hf://owner/name@v2", "hf://owner/name@v2"),
    ]:
        assert locate_pipeline(name, tmp_path) == meant
    (tmp_path / "stabilityai" / "stable-audio-open-1.0").mkdir(parents=True)
    located = locate_pipeline("stabilityai/stable-audio-open-1.0", tmp_path)
    assert located == f"{tmp_path}/stabilityai/stable-audio-open-1.0"


def test_what_the_hub_does_not_give_names_both_possibilities() -> None:
    with pytest.raises(ModelError, match=r"owner/nothing: there is no such folder, and the hub"):
        open_model("owner/nothing")


def test_a_stamp_tells_when_weights_change(folder: Path) -> None:
    before = pipeline_stamp(folder)
    assert pipeline_stamp(folder) == before
    path = folder / "vae" / WEIGHTS
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert path.stat().st_size == size
    assert pipeline_stamp(folder) != before


def test_an_autoencoder_of_any_class_is_not_opened(folder: Path) -> None:
    change_json(folder / "vae" / "config.json", _class_name="AutoencoderKL")
    with pytest.raises(ModelError, match="names the class AutoencoderKL; supported: "):
        open_autoencoder(folder / "vae")


def test_a_check_prints_what_a_pipeline_is_made_of(folder: Path, opened: MusicModel) -> None:
    done = CliRunner().invoke(app, ["model", "check", str(folder)])
    assert done.exit_code == 0, done.output
    parameters = sum(p.numel() for p in opened.denoiser.parameters())
    for told in (
        "StableAudioDiTModel",
        f"{parameters:,}",
        "float32",
        "v-prediction, cosine schedule",
        "0.128 s stereo at 1,000 Hz: 16 frames of 8 samples, 4 numbers each",
        *opened.layer_groups(),
        "ok  all tensors are there",
    ):
        assert told in done.output
    found = CliRunner().invoke(app, ["model", "check", "--json", str(folder)])
    told = json.loads(found.stdout)
    assert told["window_seconds"] == opened.window_seconds
    assert told["groups"] == {
        name: opened.parameter_count(names) for name, names in opened.layer_groups().items()
    }


def test_a_check_of_a_faulty_pipeline_fails(folder: Path) -> None:
    change_tensors(folder / "transformer" / WEIGHTS, without("proj_out.weight"))
    done = CliRunner().invoke(app, ["model", "check", str(folder)])
    assert done.exit_code == 1
    assert isinstance(done.exception, TdaError)
    assert str(done.exception).startswith(f"{folder}: transformer: proj_out.weight is missing")
