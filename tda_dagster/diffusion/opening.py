"""Opening a model: from a pipeline directory, wherever it is, to a `MusicModel`.

What belongs here: bringing a directory here, telling which adapter it needs, and what can be known
of a pipeline without opening it.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

# diffusers loads components of other libraries only when those are imported already.
from tda_dagster.diffusion.autoencoder import spectral  # noqa: F401
from tda_dagster.diffusion.model import ModelError, MusicModel
from tda_dagster.diffusion.stable_audio import StableAudioModel
from tda_dagster.object_storage import TRANSFERS, ObjectStorageError, open_url, side_by_side


def open_model(uri: str | Path, device: str = "cpu") -> MusicModel:
    """Open a diffusers pipeline directory (local, any fsspec URL, or a hub id).

    Raises ModelError when it is not a pipeline, of a class without an adapter, or incomplete.
    """
    with local_pipeline(uri) as folder:
        adapter = _adapter(uri, folder)
        try:
            with quiet():
                pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{uri}: the pipeline cannot be loaded, save it again: {error}"
            ) from error
    return adapter(pipeline.to(device))


def _adapter(uri: str | Path, folder: Path) -> Callable[[DiffusionPipeline], MusicModel]:
    """What turns the pipeline in a local folder into a `MusicModel`."""

    adapters = {"StableAudioPipeline": StableAudioModel}
    try:
        name = DiffusionPipeline.load_config(folder).get("_class_name")
    except OSError as error:
        raise ModelError(f"{uri}: model_index.json cannot be read: {error}") from error
    if name not in adapters:
        raise ModelError(
            f"{uri}: a {name} cannot be attributed yet; supported: {', '.join(adapters)}"
        )
    return adapters[name]


def copy_pipeline(uri: str | Path, folder: Path) -> None:
    """Copy a pipeline directory from wherever it is into `folder`."""
    with local_pipeline(uri) as source:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def autoencoder_of(uri: str | Path, folder: Path) -> int:
    """Copy a pipeline's autoencoder directory into `folder`; returns the latent frames of one of
    its segments."""
    with local_pipeline(uri) as source:
        _adapter(uri, source)  # the transformer is read below as this class lays it out
        if not (source / "vae" / "config.json").is_file():
            raise ModelError(f"{uri}: the pipeline has no autoencoder (vae/config.json)")
        shutil.copytree(source / "vae", folder, dirs_exist_ok=True)
        transformer = json.loads((source / "transformer" / "config.json").read_text())
    return int(transformer["sample_size"])


def pipeline_stamp(uri: str | Path) -> str:
    """sha256 over the names, sizes and times (or etags) of a pipeline directory's files: changes
    when the pipeline does, without reading it. A hub id stands for itself. Raises
    `ObjectStorageError`."""
    location = str(uri)
    if "://" not in location and not Path(location).exists():
        return hashlib.sha256(location.encode()).hexdigest()
    files, path = open_url(location)
    stamp = hashlib.sha256()
    for name, info in sorted(files.find(path).items()):
        known = {k: info.get(k) for k in ("size", "mtime", "ETag", "LastModified")}
        stamp.update(f"{name.removeprefix(path)}\x1f{known}\n".encode())
    return stamp.hexdigest()


@contextmanager
def local_pipeline(uri: str | Path) -> Iterator[Path]:
    """The pipeline directory as a local one, for the time of the block."""
    location = str(uri)
    with tempfile.TemporaryDirectory() as scratch:
        if "://" in location:
            try:
                _fetch(location, Path(scratch))
            except (ObjectStorageError, OSError, ValueError, ImportError) as error:
                raise ModelError(f"{uri}: the pipeline cannot be fetched: {error}") from error
            location = scratch
        elif not Path(location).exists():
            try:
                location = str(DiffusionPipeline.download(location))
            except Exception as error:  # the hub client raises many kinds
                raise ModelError(
                    f"{uri}: there is no such folder, and the hub does not give it: {error}"
                ) from error
        if not (Path(location) / "model_index.json").is_file():
            raise ModelError(
                f"{uri}: not a diffusers pipeline directory: it has no model_index.json"
            )
        yield Path(location)


def _fetch(url: str, folder: Path) -> None:
    files, root = open_url(url)
    root = root.rstrip("/") + "/"

    def fetch(path: str) -> None:
        name = path.removeprefix(root)
        if ".." in name.split("/"):
            raise ValueError(f"unsafe file name {name!r}")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        files.download(path, folder / name)

    found = files.find(root.rstrip("/"))
    if not found:
        raise FileNotFoundError("there is nothing")
    for _ in side_by_side(fetch, found, TRANSFERS):
        pass


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block, diffusers and transformers load without progress bars or chatter."""
    shown = diffusers_logging.is_progress_bar_enabled()
    level = diffusers_logging.get_verbosity()
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
        if shown:
            diffusers_logging.enable_progress_bar()
