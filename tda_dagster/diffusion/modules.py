"""One module of a pipeline: made of its settings and weights, which must fit each other.

What belongs here: everything about opening a folder with a `config.json` and weights that is the
same for all classes. Which modules a pipeline has is in `opening`.
"""

import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from tda_dagster.diffusion.model import ModelError
from tda_dagster.diffusion.weights import (
    CONFIG,
    FLOATS,
    TensorHeader,
    WeightFiles,
    first_line,
    read_json,
    several,
)

# diffusers' autoencoders use a function of torch that has a successor. Once for all, because
# changing filters for a while is not safe among threads.
warnings.filterwarnings("ignore", message=".*weight_norm.* is deprecated", category=FutureWarning)
_MOST_LAYERS = 10_000  # each is made, so that a mistake would take all memory


def require_fit(tensors: Mapping[str, TensorHeader], module: nn.Module) -> None:
    """Raise ModelError (which tensor, without the component's name) unless the tensors are exactly
    those of `module`, which may be on the meta device, in shape and in floating point."""
    state = module.state_dict(keep_vars=True)
    missing = [
        name
        for name, value in state.items()
        if name not in tensors
        # Of tensors that are one and the same, one is stored.
        and not any(other is value and key in tensors for key, other in state.items())
    ]
    if missing:
        raise ModelError(f"{several(missing)} missing; save the pipeline again")
    # Of a whole language model, an encoder needs but a part.
    own = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    ignored = [*own, r"^lm_head\."] if isinstance(module, PreTrainedModel) else [*own]
    extra = [
        name
        for name in sorted(set(tensors) - set(state))
        if not any(re.search(pattern, name) for pattern in ignored)
    ]
    if extra:
        raise ModelError(
            f"{several(extra)} in the weights, but not part of the module that {CONFIG} describes"
        )
    for name, value in state.items():
        if name not in tensors:
            continue
        header = tensors[name]
        if header.shape != tuple(value.shape):
            raise ModelError(
                f"{name} has the shape {list(header.shape)}, but {CONFIG} asks for "
                f"{list(value.shape)}"
            )
        if value.is_floating_point() and header.dtype not in FLOATS.values():
            raise ModelError(
                f"{name} is stored as {header.dtype}; only {', '.join(FLOATS.values())} can be "
                "attributed: save the weights unquantised"
            )


def require_finite(module: nn.Module) -> None:
    """Raise ModelError naming the first tensor of the module that holds NaN or infinity."""
    for name, value in module.state_dict().items():
        if not value.is_floating_point() or not value.numel():
            continue
        low, high = torch.aminmax(value)  # NaN wins
        if not (bool(low.isfinite()) and bool(high.isfinite())):
            bad = int((~value.isfinite()).sum())
            raise ModelError(f"{name}: weights are not finite ({bad} of {value.numel()} numbers)")


def open_module(kind: Any, folder: Path, weights: WeightFiles) -> Any:
    """The module of a class of diffusers or transformers, from its folder: float32, finite, frozen.

    The library sees `config.json` and the given weight files, and nothing else of the folder.
    Raises ModelError (without the component's name).
    """
    with tempfile.TemporaryDirectory() as scratch, quiet():
        shutil.copyfile(folder / CONFIG, Path(scratch) / CONFIG)
        weights.link_into(Path(scratch))
        try:
            module, loading = kind.from_pretrained(
                scratch,
                dtype=torch.float32,
                use_safetensors=not weights.pickled,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # the libraries raise many kinds
            raise ModelError(f"it cannot be loaded: {first_line(error)}") from error
    for fault in ("missing_keys", "mismatched_keys"):
        if loading[fault]:
            raise ModelError(f"{several(sorted(map(str, loading[fault])))} missing")
    require_finite(module)
    return module.eval().requires_grad_(False)


def empty_module(kind: Any, folder: Path) -> nn.Module:
    """The module that a folder's `config.json` describes, without values (on the meta device).

    Raises ModelError when no module can be made of the settings.
    """
    for key, value in read_json(folder / CONFIG).items():
        if key.endswith("layers") and isinstance(value, int) and value > _MOST_LAYERS:
            raise ModelError(f"{CONFIG}: {key} is larger than {_MOST_LAYERS}")
    try:
        with quiet(), torch.device("meta"):
            if hasattr(kind, "config_class") and kind.config_class is not None:
                module: nn.Module = kind(kind.config_class.from_pretrained(folder))
            else:
                module = kind.from_config(kind.load_config(folder, local_files_only=True))
    except Exception as error:  # any setting may be nonsense
        raise ModelError(
            f"{CONFIG}: no module can be made of these settings: {first_line(error)}"
        ) from None
    return module


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block, diffusers and transformers load without progress bars or chatter."""
    shown = diffusers_logging.is_progress_bar_enabled()
    level, other_level = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
        transformers_logging.set_verbosity(other_level)
        if shown:
            diffusers_logging.enable_progress_bar()
