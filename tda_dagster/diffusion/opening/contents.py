"""The files of a pipeline directory: which there must be, and whether they fit each other.

What belongs here: what can be known of a pipeline without opening it. Nothing is imported, run or
unpickled that the directory names.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tda_dagster.diffusion.model import ModelError, MusicModel
from tda_dagster.diffusion.modules import empty_module, require_fit
from tda_dagster.diffusion.stable_audio import StableAudioModel
from tda_dagster.diffusion.weights import (
    CONFIG,
    WeightFiles,
    find_weights,
    read_json,
    require_file,
)

INDEX = "model_index.json"
_SCHEDULER_CONFIG = "scheduler_config.json"
_VOCABULARIES = ("tokenizer.json", "spiece.model", "vocab.json", "vocab.txt")
_TEXT_SUFFIXES = (".json", ".model", ".txt")

ADAPTERS: Mapping[str, type[MusicModel]] = {"StableAudioPipeline": StableAudioModel}

# Where classes may come from. Classes are looked up by their names, so none of these is imported
# because a file says so.
_LIBRARIES = ("diffusers", "transformers", "stable_audio", "tda_dagster")


@dataclass(frozen=True)
class Module:
    """A module of the pipeline: its class, its folder with the settings, its weights."""

    kind: Any
    folder: Path
    config: Mapping[str, Any]
    weights: WeightFiles


@dataclass(frozen=True)
class Contents:
    """What a pipeline directory holds, examined: everything is there and fits, as far as can be
    told without the values. `notes` are what is odd but harmless."""

    folder: Path
    adapter: type[MusicModel]
    modules: Mapping[str, Module]
    scheduler: Any
    tokenizer_kind: Any
    notes: tuple[str, ...]

    def text_files(self, name: str) -> list[Path]:
        """The files of the scheduler or the tokenizer."""
        files = sorted((self.folder / name).iterdir())
        return [file for file in files if file.is_file() and file.suffix in _TEXT_SUFFIXES]

    def copy_into(self, folder: Path) -> None:
        """Copy what belongs to the pipeline, as real files under their ordinary names."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / INDEX, folder / INDEX)
        for name in self.modules:
            self.copy_module(name, folder / name)
        for name in ("scheduler", "tokenizer"):
            (folder / name).mkdir(exist_ok=True)
            for file in self.text_files(name):
                shutil.copyfile(file, folder / name / file.name)

    def copy_module(self, name: str, folder: Path) -> None:
        """Copy one module's settings and weights."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.modules[name].folder / CONFIG, folder / CONFIG)
        self.modules[name].weights.copy_into(folder)


def examine(folder: Path) -> Contents:
    """Examine a local pipeline directory.

    Raises ModelError, without the directory's name, for the first thing that is missing, damaged,
    of a kind that is not supported, or does not fit the rest: in one sentence that names the
    component and the tensor.
    """
    index = read_json(folder / INDEX)
    adapter = _adapter(index)
    notes = _leftovers(folder, index, adapter)
    with naming("scheduler"):
        listed = _class_name(index, "scheduler")
        _require_folder(folder, "scheduler")
        config = read_json(folder / "scheduler" / _SCHEDULER_CONFIG)
        # diffusers opens the class that the index lists, whatever the settings say they are of.
        adapter.scheduler_of(str(config.get("_class_name", listed)), config)
        scheduler = adapter.scheduler_of(listed, config)
    with naming("tokenizer"):
        tokenizer_kind = _tokenizer_kind(folder, index)
    modules = {}
    for name, classes in adapter.modules.items():
        with naming(name):
            modules[name] = _module(folder, index, name, classes)
    settings = {}
    for name, module in modules.items():
        with naming(name):
            empty = empty_module(module.kind, module.folder)
            require_fit(module.weights.tensors, empty)
            # With the defaults of what config.json leaves out.
            filled: Any = empty.config
            settings[name] = filled.to_dict() if hasattr(filled, "to_dict") else dict(filled)
    adapter.require_consistent(settings)
    return Contents(folder, adapter, modules, scheduler, tokenizer_kind, tuple(notes))


@contextmanager
def naming(what: object) -> Iterator[None]:
    """Inside the block, the message of a ModelError begins with `what`."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{what}: {error}") from error


def _adapter(index: Mapping[str, Any]) -> type[MusicModel]:
    name: Any = index.get("_class_name")
    if isinstance(name, list):
        raise ModelError(
            f"{INDEX}: it is a custom pipeline whose code comes with it; such code is never "
            f"executed; supported: {', '.join(ADAPTERS)}"
        )
    if not isinstance(name, str) or name not in ADAPTERS:
        raise ModelError(
            f"a {str(name)[:80]} cannot be attributed yet; supported: {', '.join(ADAPTERS)}"
        )
    return ADAPTERS[name]


def _leftovers(folder: Path, index: Mapping[str, Any], adapter: type[MusicModel]) -> list[str]:
    known = {*adapter.modules, "scheduler", "tokenizer"}
    notes = [
        f"{INDEX} lists {name[:80]!r}, which is no part of the pipeline and is left out"
        for name, value in index.items()
        if not name.startswith("_") and name not in known and value and value != [None, None]
    ]
    lora = sorted(f.name for f in folder.glob("*lora*.safetensors"))
    notes += [f"{name} is not applied; fuse it into the transformer first" for name in lora]
    return notes


def _class_name(index: Mapping[str, Any], component: str) -> str:
    """The class of a component as the index has it; raises ModelError if it has none, or if it
    would come from elsewhere than the libraries that are known."""
    entry = index.get(component)
    if entry is None or entry == [None, None]:
        raise ModelError(f"{INDEX} does not list it; save the whole pipeline again")
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)):
        raise ModelError(f"{INDEX} should list it as [library, class]")
    library, name = entry
    if library.split(".")[0] not in _LIBRARIES:
        raise ModelError(
            f"{INDEX} takes {name[:80]} from {library[:80]!r}, which is not imported; only classes "
            "of diffusers and transformers are used"
        )
    return str(name)


def _require_folder(folder: Path, component: str) -> None:
    if not (folder / component).is_dir():
        raise ModelError(f"the folder {component} is missing; save the whole pipeline again")


def _tokenizer_kind(folder: Path, index: Mapping[str, Any]) -> Any:
    name = _class_name(index, "tokenizer")
    kind = _of_transformers(name, PreTrainedTokenizerBase)
    if kind is None:
        raise ModelError(f"{INDEX} names {name[:80]}, which is no tokenizer of transformers")
    _require_folder(folder, "tokenizer")
    there = [file for file in _VOCABULARIES if (folder / "tokenizer" / file).exists()]
    if not there:
        raise ModelError(
            f"its vocabulary is missing: there is neither {' nor '.join(_VOCABULARIES[:2])}"
        )
    for file in there:
        require_file(folder / "tokenizer" / file, file)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / "tokenizer" / file).exists():
            read_json(folder / "tokenizer" / file)
    return kind


def _of_transformers(name: str, base: type) -> Any:
    """The class of this name in transformers, if it is one below `base`; else None."""
    found = getattr(transformers, name, None)
    return found if isinstance(found, type) and issubclass(found, base) else None


def _module(
    folder: Path, index: Mapping[str, Any], name: str, classes: Mapping[str, Any] | None
) -> Module:
    entry = _class_name(index, name)
    _require_folder(folder, name)
    config = read_json(folder / name / CONFIG)
    if classes is None:
        kind = _of_transformers(entry, PreTrainedModel)
        if kind is None:
            raise ModelError(f"{INDEX} names {entry[:80]}, which is no model of transformers")
        library, expected = "transformers", kind.config_class.model_type
        found = config.get("model_type", expected)
    else:
        if entry not in classes:
            raise ModelError(f"it is {entry[:80]}; supported: {', '.join(classes)}")
        kind, library, expected = classes[entry], "diffusers", entry
        found = config.get("_class_name", expected)
    if found != expected:
        raise ModelError(f"{CONFIG} describes {str(found)[:80]}, but {INDEX} lists {entry}")
    if config.get("quantization_config"):
        raise ModelError("its weights are quantised; save the pipeline unquantised")
    if (folder / name / "adapter_config.json").exists():
        raise ModelError("it has an adapter (adapter_config.json); merge it into the weights first")
    return Module(kind, folder / name, config, find_weights(folder / name, library))
