"""What a study reads from outside its store, as links that DVC can hash."""

import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import yaml

from tda_dagster.dvc_inputs import lay_out_inputs
from tda_dagster.workspace import Workspace

SHIPPED = Path(__file__).parents[1] / "dvc.yaml"
MakeStudy = Callable[..., Workspace]


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """`make_study(manifest=…, pipeline=…, audio=…)`: a folder with settings, stages and a cohort
    of a prompt and of files."""

    def make(
        manifest: str | None = None, pipeline: str | None = None, audio: tuple[str, ...] = ()
    ) -> Workspace:
        root = tmp_path / "study"
        (root / "cohorts").mkdir(parents=True, exist_ok=True)
        settings = {"dataset": {"manifest": manifest}, "model": {"pipeline": pipeline}}
        (root / "params.yaml").write_text(yaml.safe_dump(settings))
        (root / "dvc.yaml").write_text(SHIPPED.read_text(encoding="utf-8"))
        queries = [{"prompt": "a tune"}, *({"audio": name} for name in audio)]
        (root / "cohorts" / "reference.yaml").write_text(yaml.safe_dump({"queries": queries}))
        return Workspace(root)

    return make


def music(root: Path, *rows: str, there: tuple[str, ...] = ("a.wav", "sub/b.wav")) -> None:
    (root / "music" / "sub").mkdir(parents=True, exist_ok=True)
    for name in there:
        (root / "music" / name).write_bytes(name.encode())
    (root / "music" / "m.csv").write_text("\n".join(["audio,caption", *rows]) + "\n")


def contents(workspace: Workspace) -> dict[str, bytes]:
    """What DVC hashes: file contents by path, links to files followed."""
    folder = workspace.root / "data" / "inputs"
    found = [Path(where) / name for where, _, names in os.walk(folder) for name in names]
    for linked in ("pipeline", "assets"):
        if (folder / linked).is_dir():
            found += [p for p in (folder / linked).rglob("*") if p.is_file()]
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in found if "__pycache__" not in p.parts
    }


def always(workspace: Workspace) -> bool:
    stages = yaml.safe_load((workspace.root / "dvc.yaml").read_text())["stages"]
    return bool(stages["inputs"]["always_changed"])


def test_the_reference_study_reads_the_package_alone(make_study: MakeStudy) -> None:
    workspace = make_study()
    laid = lay_out_inputs(workspace)
    assert laid.unseen == ()
    assert not always(workspace)
    found = contents(workspace)
    assert b"__version__" in found["version"]
    assert b"study_asset" in found["assets/base.py"]
    lay_out_inputs(workspace)
    assert contents(workspace) == found


def test_content_of_local_files_is_seen_as_it_changes(make_study: MakeStudy) -> None:
    workspace = make_study("music/m.csv", "models/mine", ("q.wav",))
    root = workspace.root
    music(root, "a.wav,one", "sub/b.wav,two", "sub/b.wav,twice")
    (root / "models" / "mine" / "vae").mkdir(parents=True)
    (root / "models" / "mine" / "vae" / "weights").write_bytes(b"1")
    (root / "q.wav").write_bytes(b"query")
    assert lay_out_inputs(workspace).unseen == ()
    before = contents(workspace)
    assert sum(name.startswith("audio/") for name in before) == 2
    for path in ("music/m.csv", "music/sub/b.wav", "models/mine/vae/weights", "q.wav"):
        kept = (root / path).read_bytes()
        (root / path).write_bytes(kept + b" changed")
        (different,) = {k for k, v in contents(workspace).items() if before[k] != v}
        assert different.split("/")[0] in ("manifest", "audio", "pipeline", "queries")
        (root / path).write_bytes(kept)
    assert contents(workspace) == before
    moved = root.parent / "moved"
    root.rename(moved)
    assert contents(Workspace(moved)) == before


def test_a_track_that_goes_takes_its_link_along(make_study: MakeStudy) -> None:
    workspace = make_study("music/m.csv")
    music(workspace.root, "a.wav,one", "sub/b.wav,two")
    lay_out_inputs(workspace)
    music(workspace.root, "a.wav,one", there=())
    (workspace.root / "music" / "sub" / "b.wav").unlink()
    assert lay_out_inputs(workspace).unseen == ()
    assert sum(name.startswith("audio/") for name in contents(workspace)) == 1


def test_what_cannot_be_linked_is_asked_for_every_time(make_study: MakeStudy) -> None:
    workspace = make_study("music/m.csv", audio=("gone.wav",))
    rows = ("a.wav,one", "late.wav,not here yet", "pipe.wav,never ends", "sub,a folder")
    music(workspace.root, *rows)
    os.mkfifo(workspace.root / "music" / "pipe.wav")
    laid = lay_out_inputs(workspace)
    assert laid.unseen == (
        "files of the manifest that are not there (3)",
        "files of the cohort that are not there (1)",
    )
    assert always(workspace)
    assert sum(name.startswith("audio/") for name in contents(workspace)) == 1
    music(workspace.root, "a.wav,one")
    (workspace.root / "gone.wav").write_bytes(b"found")
    assert lay_out_inputs(workspace).unseen == ()
    assert not always(workspace)


def test_of_what_is_remote_there_is_a_stamp(make_study: MakeStudy) -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/m.csv", b"audio,caption\na.wav,one\n")
    files.pipe("/bucket/a.wav", b"one")
    workspace = make_study("memory://bucket/m.csv", "some-team/some-model")
    laid = lay_out_inputs(workspace)
    assert always(workspace)
    assert len(laid.unseen) == 1
    before = contents(workspace)
    assert before["pipeline"] == b"the hub's some-team/some-model\n"
    files.pipe("/bucket/a.wav", b"other")
    lay_out_inputs(workspace)
    changed = {name for name, bytes_ in contents(workspace).items() if bytes_ != before.get(name)}
    assert changed == {"manifest"}
