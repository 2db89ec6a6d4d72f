"""Where a pipeline is: a folder, any URL, or a model on the Hugging Face hub.

What belongs here: what the setting `model.pipeline` means, bringing the directory here, and telling
whether it has changed. What is in it is the business of `contents`.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tda_dagster.diffusion.model import ModelError
from tda_dagster.diffusion.opening.contents import INDEX
from tda_dagster.object_storage import TRANSFERS, ObjectStorageError, open_url, side_by_side

_HUB = "hf://"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*/[A-Za-z0-9][\w.-]*", re.ASCII)
_HUB_TIMEOUT_S = 10.0
_SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".txt")

_commits: dict[tuple[str, str | None], str] = {}


def locate_pipeline(uri: str | Path, base: Path | None = None) -> str:
    """The absolute path or URL that a pipeline's name stands for.

    A relative path is one below `base` (the current folder by default) and `~` is the home folder.
    What is no folder there but has the form `owner/name` is a model on the hub, written
    `hf://owner/name`; `hf://owner/name@revision` names a revision.
    """
    location = str(uri)
    if location.startswith("file://"):
        location = unquote(urlsplit(location).path)
    if "://" in location:
        return location
    path = (base or Path.cwd()) / Path(location).expanduser()
    if not path.exists() and _HUB_ID.fullmatch(location):
        return _HUB + location
    return str(path)


@contextmanager
def local_pipeline(uri: str | Path) -> Iterator[Path]:
    """The pipeline directory as a local one, for the time of the block.

    Raises ModelError when there is none, or when a link in it leads out of it.
    """
    location = locate_pipeline(uri)
    with tempfile.TemporaryDirectory() as scratch:
        if location.startswith(_HUB):
            folder = _from_hub(location.removeprefix(_HUB))
        elif "://" in location:
            folder = Path(scratch)
            try:
                _fetch(location, folder)
            except (ObjectStorageError, OSError, ValueError, ImportError) as error:
                raise ModelError(f"{uri}: the pipeline cannot be fetched: {error}") from error
        else:
            folder = Path(location)
            if not folder.exists():
                meant = "" if location == str(uri) else f" ({location})"
                raise ModelError(
                    f"{uri}: there is no such folder{meant}; give a pipeline directory, a URL, or "
                    "a model on the hub as owner/name"
                )
        if not folder.is_dir():
            raise ModelError(f"{uri}: it is a file, not a pipeline directory; unpack it")
        if not (folder / INDEX).is_file():
            raise ModelError(f"{uri}: not a diffusers pipeline directory: it has no {INDEX}")
        _refuse_links_outside(folder, str(uri))
        yield folder


def pipeline_stamp(uri: str | Path) -> str:
    """sha256 over the names, sizes and times (or etags) of a pipeline directory's files: changes
    when the pipeline does, without reading it. Of a link, those of the file it leads to; of a
    model on the hub, its commit. Raises `ObjectStorageError`."""
    location = locate_pipeline(uri)
    if location.startswith(_HUB):
        known = f"{location}\x1f{_commit(*_repository(location.removeprefix(_HUB)))}"
        return hashlib.sha256(known.encode()).hexdigest()
    if "://" not in location and not Path(location).exists():
        return hashlib.sha256(location.encode()).hexdigest()
    files, path = open_url(location)
    stamp = hashlib.sha256()
    for name, info in sorted(files.find(path).items()):
        known_of = {k: info.get(k) for k in ("size", "mtime", "ETag", "LastModified")}
        if info.get("islink") and Path(name).exists():
            target = Path(name).stat()
            known_of |= {"size": target.st_size, "mtime": target.st_mtime}
        stamp.update(f"{name.removeprefix(path)}\x1f{known_of}\n".encode())
    return stamp.hexdigest()


def _refuse_links_outside(folder: Path, where: str) -> None:
    """A link may lead to another file of the folder, or, in a snapshot of the hub's cache, to the
    blobs of the same model."""
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    for path in _visible(root):
        if not path.is_symlink():
            continue
        name, target = path.relative_to(root), path.readlink()
        try:
            real = path.resolve(strict=True)
        except FileNotFoundError:
            raise ModelError(
                f"{where}: {name} is a link to {target}, where there is nothing; copy the pipeline "
                "again"
            ) from None
        except (OSError, RuntimeError):
            raise ModelError(f"{where}: {name} is a link that leads nowhere ({target})") from None
        if not any(real.is_relative_to(place) for place in allowed):
            raise ModelError(
                f"{where}: {name} is a link to {target}, outside of the pipeline's folder; put the "
                "file itself there"
            )


def _visible(root: Path) -> Iterator[Path]:
    """All files, folders and links below `root` that are not hidden; links are not followed."""
    for parent, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (*folders, *sorted(files)):
            if not name.startswith("."):
                yield Path(parent) / name


def _belongs(name: str) -> bool:
    """Whether a file of this relative name can be part of a pipeline: all but what others keep
    beside it, such as whole checkpoints, examples and images."""
    path = PurePosixPath(name)
    return name == INDEX or (
        len(path.parts) == 2 and not name.startswith(".") and path.suffix in _SUFFIXES
    )


def _fetch(url: str, folder: Path) -> None:
    files, root = open_url(url)
    root = root.rstrip("/") + "/"
    found = [path.removeprefix(root) for path in files.find(root.rstrip("/"))]
    if not found:
        raise FileNotFoundError("there is nothing")
    safe = {str(PurePosixPath(n).parent) for n in found if n.endswith(".safetensors")}
    wanted = [
        name
        for name in found
        if _belongs(name)
        and not (name.endswith(".bin") and str(PurePosixPath(name).parent) in safe)
    ]
    for name in wanted:
        if ".." in name.split("/"):
            raise ValueError(f"unsafe file name {name!r}")

    def fetch(name: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        files.download(root + name, folder / name)

    for _ in side_by_side(fetch, wanted, TRANSFERS):
        pass


def _repository(name: str) -> tuple[str, str | None]:
    repository, _, revision = name.strip("/").partition("@")
    return repository, revision or None


def _commit(repository: str, revision: str | None) -> str | None:
    """The commit of a model on the hub, asked for once per process; when the hub does not answer,
    the one that this machine has fetched last. None when it is not known."""
    key = (repository, revision)
    if key not in _commits:
        try:
            found = HfApi().model_info(repository, revision=revision, timeout=_HUB_TIMEOUT_S).sha
        except Exception:  # the hub client raises many kinds
            found = _fetched_commit(repository, revision)
        if found is None:
            return None
        _commits[key] = found
    return _commits[key]


def _fetched_commit(repository: str, revision: str | None) -> str | None:
    try:
        cached = try_to_load_from_cache(repository, INDEX, revision=revision)
    except HFValidationError:
        return None
    return Path(cached).parent.name if isinstance(cached, str) else None


def _from_hub(name: str) -> Path:
    """The folder of a model's snapshot in the hub's cache, fetched if it is not there."""
    repository, revision = _repository(name)
    known = _commit(repository, revision)
    try:
        return Path(
            snapshot_download(
                repository,
                revision=known or revision,
                allow_patterns=[INDEX, *(f"*/*{suffix}" for suffix in _SUFFIXES)],
                etag_timeout=_HUB_TIMEOUT_S,
            )
        )
    except Exception as error:  # the hub client raises many kinds
        raise ModelError(
            f"{name}: there is no such folder, and the hub does not give a model of that name: "
            f"{_hub_reason(error, repository)}"
        ) from error


def _hub_reason(error: Exception, repository: str) -> str:
    if isinstance(error, GatedRepoError):
        return f"accept its terms at {constants.ENDPOINT}/{repository} and set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return "it does not exist, or is private; check the name, or set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, HFValidationError):
        return "that is no name of a model"
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set and it is not in the cache"
    return "the hub cannot be reached and it is not in the cache; correct the path, or go online"
