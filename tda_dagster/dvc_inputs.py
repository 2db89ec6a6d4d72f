"""What a study reads from outside its store, laid out where DVC compares it.

What belongs here: `data/inputs`, a folder of links to the manifest, the audio files, the pipeline,
the audio of queries and the package's own declarations. DVC hashes what a link points at, so
`dvc status` and `dvc repro` see a change without running anything. For what is not a local file
there is a stamp, which only the stage `inputs` itself can renew: DVC then runs it every time.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tda_dagster import version
from tda_dagster.stages_file import StagesFile
from tda_dagster.workspace import Workspace


@dataclass(frozen=True)
class Inputs:
    """What was laid out: `links` counts the local files and folders that DVC compares, `unseen`
    says in phrases what it cannot compare."""

    links: int
    unseen: tuple[str, ...]


def lay_out_inputs(workspace: Workspace) -> Inputs:
    """Lay out the inputs of the study and of the stages' cohort in `data/inputs`, and write into
    `dvc.yaml` whether DVC has to run the stage `inputs` every time.

    Raises TdaError where the manifest or the cohort cannot be read.
    """
    folder = workspace.digests.parent / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    # Python writes its bytecode into the folder of the assets.
    (folder / ".dvcignore").write_text("__pycache__/\n", encoding="utf-8")
    package = Path(version.__file__).resolve()
    declarations = find_spec("assets")
    assert declarations is not None
    assert declarations.origin is not None
    stages = StagesFile(workspace.root)
    laid = _Laid(folder, workspace.root)
    laid.link("version", package)
    laid.link("assets", Path(declarations.origin).resolve().parent)
    _lay_out_music(workspace, laid)
    _lay_out_pipeline(workspace, laid)
    cohort = workspace.cohort(stages.cohort)
    queries = (query.audio for query in cohort.queries if query.audio is not None)
    laid.links("queries", {name: workspace.root / name for name in queries}, "cohort")
    stages.run_inputs_always(bool(laid.unseen))
    return Inputs(laid.count, tuple(laid.unseen))


class _Laid:
    """The folder while it is laid out."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder, self._root = folder, root
        self.count = 0
        self.unseen: list[str] = []

    def link(self, name: str, target: Path) -> None:
        """Link to a file or folder, which must be there: DVC fails on a link to nothing."""
        _link(self._folder / name, target, self._root)
        self.count += 1

    def text(self, name: str, text: str) -> None:
        """Write a line in the place of a link."""
        path = self._folder / name
        _clear(path)
        path.write_text(text + "\n", encoding="utf-8")

    def links(self, name: str, targets: Mapping[str, Path], source: str) -> None:
        """Make a folder of links to files; those that are not there are `unseen` in `source`."""
        there = {_file_name(key): path for key, path in targets.items() if _is_readable(path)}
        folder = self._folder / name
        if folder.is_symlink() or not folder.is_dir():
            _clear(folder)
            folder.mkdir()
        for present in folder.iterdir():
            if present.name not in there:
                _clear(present)
        for file, target in there.items():
            _link(folder / file, target, self._root)
        self.count += len(there)
        if len(there) < len(targets):
            missing = len(targets) - len(there)
            self.unseen.append(f"files of the {source} that are not there ({missing})")


def _lay_out_music(workspace: Workspace, laid: _Laid) -> None:
    uri = workspace.settings.dataset.manifest
    if uri is None:
        laid.text("manifest", "the reference study")
        laid.links("audio", {}, "manifest")
        return
    # What reads manifests is not needed for the reference study.
    from tda_dagster.corpus import read_manifest
    from tda_dagster.corpus.files import audio_looks, audio_stamp
    from tda_dagster.corpus.location import resolve

    manifest = workspace.locate(uri)
    found = {
        row["audio"]: resolve(manifest, row["audio"]) for _, row in read_manifest(manifest).rows
    }
    local = {name: Path(place) for name, place in found.items() if not _is_url(place)}
    if not _is_url(manifest) and len(local) == len(found):
        laid.link("manifest", Path(manifest))
    else:
        laid.text("manifest", audio_stamp(manifest, audio_looks(manifest)))
        laid.unseen.append("a manifest or audio that is not on this machine")
    laid.links("audio", local, "manifest")


def _lay_out_pipeline(workspace: Workspace, laid: _Laid) -> None:
    model = workspace.settings.model
    uri = model.pipeline
    if uri is None:
        laid.text("pipeline", f"the reference model, {model.training.frames} frames")
    elif _is_url(uri):
        from tda_dagster.diffusion.opening import pipeline_stamp

        laid.text("pipeline", pipeline_stamp(uri))
        laid.unseen.append("a pipeline that is not on this machine")
    elif (workspace.root / uri).exists():
        laid.link("pipeline", workspace.root / uri)
    else:
        laid.text("pipeline", f"the hub's {uri}")


def _is_url(place: str) -> bool:
    return "://" in place


def _is_readable(path: Path) -> bool:
    # Pipes and devices would hold DVC up for ever.
    return path.is_file() and os.access(path, os.R_OK)


def _file_name(name: str) -> str:
    """A file name for any path, from which a person can tell it."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name.rsplit("/", 1)[-1])[-80:]
    return f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}-{plain}"


def _link(path: Path, target: Path, root: Path) -> None:
    """Make `path` a link to `target`: a relative one within `root`, which may then be moved."""
    folder = path.parent.resolve()  # a study's data may be a link to another disk
    inside = target.is_relative_to(root) and folder.is_relative_to(root)
    wanted = os.path.relpath(target, folder) if inside else str(target)
    if path.is_symlink() and str(path.readlink()) == wanted:
        return
    _clear(path)
    path.symlink_to(wanted)


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
