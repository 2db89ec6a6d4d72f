"""A pipeline of one's own in a study: faulty ones end the run at once, odd ones work or warn."""

import shutil
from pathlib import Path

import pytest
from chain.conftest import own_study
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow

WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_a_faulty_pipeline_ends_the_run_before_any_music_is_read(
    tmp_path: Path, oobleck_folder: Path
) -> None:
    study = own_study(tmp_path / "own", Path("models/mine"))
    pipeline = Path(shutil.copytree(oobleck_folder, study.root / "models" / "mine"))
    tensors = load_file(pipeline / "transformer" / WEIGHTS)
    del tensors["proj_out.weight"]
    save_file(tensors, pipeline / "transformer" / WEIGHTS, metadata={"format": "pt"})
    told = study.run("tda", "run", check=False)
    assert told.returncode == 1
    assert f"{pipeline}: transformer: proj_out.weight is missing" in told.stderr
    assert "Traceback" not in told.stdout + told.stderr
    assert not study.refs("dataset/manifest")


def test_a_model_that_is_neither_here_nor_on_the_hub_is_named(tmp_path: Path) -> None:
    study = own_study(tmp_path / "own", Path("owner/name"))
    told = study.run("tda", "materialize", "base", check=False)
    assert told.returncode == 1
    assert "owner/name: there is no such folder, and the hub does not give" in told.stderr
    assert str(study.root) not in told.stderr


def test_half_precision_by_links_is_stored_as_an_ordinary_pipeline_and_warned_of(
    tmp_path: Path, oobleck_folder: Path
) -> None:
    pipeline = Path(shutil.copytree(oobleck_folder, tmp_path / "mine"))
    for path in list(pipeline.rglob("*.safetensors")):
        half = {name: tensor.half() for name, tensor in load_file(path).items()}
        save_file(half, pipeline / path.name, metadata={"format": "pt"})
        path.unlink()
        kept = pipeline / f"{path.parent.name}.kept"
        (pipeline / path.name).rename(kept)
        path.with_suffix(".fp16.safetensors").symlink_to(f"../{kept.name}")
    study = own_study(tmp_path / "own", pipeline)
    said = study.run("tda", "materialize", "base/autoencoder", "dataset", "base")
    assert "base/checkpoint: after denoising" in said.stdout
    assert "seems to be untrained" in said.stdout
    study.run("tda", "export", "out")
    copied = study.root / "out" / "pipeline"
    assert (copied / "vae" / WEIGHTS).read_bytes() == (pipeline / "vae.kept").read_bytes()
    assert not list(copied.rglob("*fp16*"))
