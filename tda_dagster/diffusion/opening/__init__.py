"""Opening a model: from a pipeline directory, wherever it is, to a `MusicModel` that is proven.

What belongs here: putting an examined pipeline together and trying it. Where it is and how it gets
here is in `fetching`, which files it must have in `contents`, what it must do in `proof`.
"""

from importlib.util import find_spec
from pathlib import Path

from tda_dagster.diffusion.model import ModelError, MusicModel
from tda_dagster.diffusion.modules import open_module, quiet
from tda_dagster.diffusion.opening.contents import Contents, examine, naming
from tda_dagster.diffusion.opening.fetching import (
    local_pipeline,
    locate_pipeline,
    pipeline_stamp,
)
from tda_dagster.diffusion.opening.proof import prove
from tda_dagster.diffusion.weights import first_line

__all__ = [
    "autoencoder_of",
    "copy_pipeline",
    "local_pipeline",
    "locate_pipeline",
    "open_contents",
    "open_model",
    "pipeline_stamp",
]


def open_model(uri: str | Path, device: str = "cpu") -> MusicModel:
    """Open a diffusers pipeline directory (local, any fsspec URL, or a hub id).

    The model computes in float32 and is proven (see `open_contents`). Raises ModelError, in one
    sentence that names the component, when it is not a pipeline, of a class without an adapter, or
    not complete.
    """
    with local_pipeline(uri) as folder, naming(uri):
        return open_contents(examine(folder), device)


def open_contents(contents: Contents, device: str = "cpu") -> MusicModel:
    """Open what `examine` found and prove it: all tensors are finite, the tokenizer belongs to the
    text encoder, different captions have different conditioning, and the parts work together.

    Raises ModelError, without the pipeline's name.
    """
    with naming("tokenizer"):
        tokenizer = _tokenizer(contents)
    parts = {}
    for name, module in contents.modules.items():
        with naming(name):
            parts[name] = open_module(module.kind, module.folder, module.weights)
    with naming("tokenizer"):
        contents.adapter.require_vocabulary(tokenizer, parts["text_encoder"])
    with quiet():
        pipeline = contents.adapter.pipeline_class(
            **parts, tokenizer=tokenizer, scheduler=contents.scheduler
        )
    model = contents.adapter(pipeline.to(device))  # type: ignore[call-arg]
    prove(model)
    return model


def copy_pipeline(uri: str | Path, folder: Path) -> None:
    """Copy a pipeline directory from wherever it is into `folder`.

    Only what belongs to it is copied, as real files under their ordinary names: weights that are
    there as a variant lose its mark, pickled ones become safetensors. Raises ModelError as
    `open_model` does, without opening it.
    """
    with local_pipeline(uri) as source, naming(uri):
        examine(source).copy_into(folder)


def autoencoder_of(uri: str | Path, folder: Path) -> int:
    """Prove a pipeline and copy its autoencoder's directory into `folder`; returns the latent
    frames of one of its segments.

    As the first to see a pipeline, this opens all of it: what is wrong is said before anything
    expensive begins. Raises ModelError as `open_model` does.
    """
    with local_pipeline(uri) as source, naming(uri):
        contents = examine(source)
        model = open_contents(contents)
        contents.copy_module("vae", folder)
    return model.latent_shape[1]


def _tokenizer(contents: Contents) -> object:
    try:
        with quiet():
            return contents.tokenizer_kind.from_pretrained(
                contents.folder / "tokenizer", local_files_only=True
            )
    except Exception as error:  # tokenizers raise many kinds
        converted = (contents.folder / "tokenizer" / "tokenizer.json").exists()
        if not converted and find_spec("sentencepiece") is None:
            raise ModelError(
                "there is no tokenizer.json, and spiece.model alone needs a package that is not "
                "here: pip install sentencepiece"
            ) from None
        raise ModelError(
            f"it cannot be opened ({first_line(error)}); copy its files again"
        ) from error
