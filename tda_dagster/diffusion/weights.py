"""The weights of one module of a pipeline: the files that hold them, and what their headers say.

What belongs here: finding, reading, linking and copying the files, as diffusers and transformers
lay them out. Which module they belong to is the business of `modules`.
"""

import json
import pickle
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tda_dagster.diffusion.model import ModelError

CONFIG = "config.json"
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LARGEST_JSON = 64 << 20
_LFS_POINTER = b"version https://git-lfs"

# The stem of the files by the library that saves them: as safetensors, and as pickle.
_STEMS = {
    "diffusers": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "transformers": ("model", "pytorch_model"),
}


@dataclass(frozen=True)
class TensorHeader:
    """What a file says of a tensor without its values: dtype (float32, …) and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold a module's weights.

    `files` are one file or all shards; `pickled` says that they are `.bin` files of torch instead
    of safetensors; `variant` is the part of their names that marks another precision ("fp16").
    """

    library: str
    files: tuple[Path, ...]
    index: Path | None
    pickled: bool
    variant: str | None

    @cached_property
    def tensors(self) -> Mapping[str, TensorHeader]:
        """The header of every tensor by name, read without the values.

        Raises ModelError naming the file that is damaged.
        """
        read = _pickled_headers if self.pickled else _headers
        found: dict[str, TensorHeader] = {}
        for file in self.files:
            found |= read(file)
        if self.index is not None:
            listed = set(_weight_map(self.index))
            absent = sorted(listed - set(found))
            if absent:
                raise ModelError(f"{several(absent)} missing from the files that the index lists")
        return found

    def link_into(self, folder: Path) -> None:
        """Put links to the files into `folder`, under the names that the library expects."""
        for file, name in self._named():
            (folder / name).symlink_to(file.resolve())
        self._write_index(folder, {})

    def copy_into(self, folder: Path) -> None:
        """Copy the files into `folder` under the names that the library expects; pickled ones
        become safetensors."""
        renamed = {}
        for file, name in self._named():
            if self.pickled:
                stem, converted = _STEMS[self.library][0], f"{Path(name).stem}.safetensors"
                if self.index is None:
                    converted = f"{stem}.safetensors"
                tensors = _unpickled(file, "cpu")
                # Tensors that share memory cannot be saved as they are.
                save_file(
                    {key: value.contiguous().clone() for key, value in tensors.items()},
                    folder / converted,
                    metadata={"format": "pt"},
                )
                renamed[name] = converted
            else:
                shutil.copyfile(file, folder / name)
        self._write_index(folder, renamed)

    def _named(self) -> Iterator[tuple[Path, str]]:
        for file in self.files:
            yield file, file.name if self.index is not None else self._file_name(self.pickled)

    def _file_name(self, pickled: bool) -> str:
        return _STEMS[self.library][pickled] + (".bin" if pickled else ".safetensors")

    def _write_index(self, folder: Path, renamed: Mapping[str, str]) -> None:
        if self.index is None:
            return
        path = folder / f"{self._file_name(self.pickled and not renamed)}.index.json"
        index = read_json(self.index)
        if not renamed and "metadata" in index:
            shutil.copyfile(self.index, path)
            return
        index.setdefault("metadata", {})  # diffusers does not do without
        index["weight_map"] = {k: renamed.get(v, v) for k, v in index["weight_map"].items()}
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def find_weights(folder: Path, library: str) -> WeightFiles:
    """The weights in a module's folder: safetensors before pickles, full precision before a
    variant.

    `library` is "diffusers" or "transformers". Raises ModelError (without the folder's name) when
    there are none, a shard is missing, or it is unclear which of several variants is meant.
    """
    names = {entry.name for entry in folder.iterdir()}
    safe, pickled = _STEMS[library]
    kinds = (
        (False, re.escape(safe), "safetensors"),
        (True, re.escape(pickled), "bin"),
    )
    for wanted_variant in (False, True):
        for is_pickled, stem, suffix in kinds:
            middle = r"\.(?P<variant>[A-Za-z0-9_]+)" if wanted_variant else "(?P<variant>)"
            single = re.compile(rf"{stem}{middle}\.{suffix}")
            index = re.compile(rf"{stem}\.{suffix}\.index{middle}\.json")
            found = [
                (match["variant"] or None, name, pattern is index)
                for name in sorted(names)
                for pattern in (single, index)
                if (match := pattern.fullmatch(name))
            ]
            variants = {variant for variant, _, _ in found}
            if len(variants) > 1:
                listed = ", ".join(sorted(map(str, variants)))
                raise ModelError(
                    f"there are only variants of the weights ({listed}); keep one of them, or add "
                    "the files without a variant"
                )
            if found:
                # A single file comes before an index, in the order of the patterns.
                variant, name, is_index = min(found, key=lambda entry: entry[2])
                path = folder / name
                files = _shards(path) if is_index else (path,)
                for file in files:
                    require_file(file, file.name)
                return WeightFiles(library, files, path if is_index else None, is_pickled, variant)
    raise ModelError(_no_weights(names, library))


def _no_weights(names: Collection[str], library: str) -> str:
    expected = f"{_STEMS[library][0]}.safetensors"
    shards = [n for n in sorted(names) if re.search(r"-\d{5}-of-\d{5}", n)]
    if shards:
        return f"{shards[0]} is a part of the weights, and {expected}.index.json is missing"
    others = [n for n in sorted(names) if n.endswith((".safetensors", ".bin", ".ckpt", ".pt"))]
    there = f"; there is {', '.join(others[:3])}" if others else ""
    return f"its weights ({expected}) are missing{there}"


def _shards(index: Path) -> tuple[Path, ...]:
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if Path(name).name != name or name in (".", ".."):
            raise ModelError(f"{index.name}: it lists {name[:80]!r}, which is no file beside it")
    return tuple(index.parent / name for name in names)


def _weight_map(index: Path) -> dict[str, str]:
    listed = read_json(index).get("weight_map")
    if (
        not isinstance(listed, dict)
        or not listed
        or not all(isinstance(v, str) for v in listed.values())
    ):
        raise ModelError(f"{index.name}: it lists no files (weight_map); save the pipeline again")
    return listed


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises ModelError naming the file (without its folder)."""
    require_file(path, path.name)
    if path.stat().st_size > _LARGEST_JSON:
        raise ModelError(f"{path.name} is too large to be a settings file")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        detail = "" if isinstance(error, RecursionError) else f" ({error})"
        raise ModelError(f"{path.name} cannot be read: it is not valid JSON{detail}") from None
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path.name} cannot be read: it holds no JSON object")
    return found


def require_file(path: Path, name: str) -> None:
    """Raise ModelError unless `path` is a file with something in it; `name` is for the message."""
    if not path.exists():
        raise ModelError(f"{name} is missing")
    if not path.is_file():
        raise ModelError(f"{name} is not a file")
    if path.stat().st_size == 0:
        raise ModelError(f"{name} is empty")
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise ModelError(f"{name} cannot be read: {error.strerror}") from None
    if start == _LFS_POINTER:
        raise ModelError(f"{name} is a Git LFS pointer, not the file itself; run `git lfs pull`")


def _headers(file: Path) -> dict[str, TensorHeader]:
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: TensorHeader(
                    FLOATS.get(part.get_dtype(), str(part.get_dtype())), tuple(part.get_shape())
                )
                for name, part in slices.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{file.name} is cut off or no safetensors file; copy or save it again"
        ) from error


def _pickled_headers(file: Path) -> dict[str, TensorHeader]:
    return {
        name: TensorHeader(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in _unpickled(file, "meta").items()
    }


def _unpickled(file: Path, device: str) -> dict[str, torch.Tensor]:
    """The tensors of a `.bin` file, read by torch's restricted loader, which runs no code."""
    remedy = "save the pipeline again with safe_serialization=True"
    try:
        found = torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{file.name} holds more than tensors, and is not opened: its pickle could run any "
            f"code; {remedy}"
        ) from None
    except Exception as error:  # a damaged archive fails in many ways
        raise ModelError(
            f"{file.name} is cut off or damaged; copy it again, or {remedy}"
        ) from error
    if not isinstance(found, dict) or not all(torch.is_tensor(v) for v in found.values()):
        raise ModelError(f"{file.name} holds more than named tensors; {remedy}")
    return found


def several(names: Sequence[str]) -> str:
    """ "x is", "x and 1 other tensor are": the subject and the verb of a sentence about tensors."""
    if len(names) == 1:
        return f"{names[0]} is"
    others = len(names) - 1
    return f"{names[0]} and {others} other tensor{'s' * (others > 1)} are"


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300]
