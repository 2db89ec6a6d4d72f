"""Laying out a new study's folder for somebody who installed the package."""

import csv
import io
from importlib.resources import files
from pathlib import Path

from tda_dagster.corpus.manifest import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from tda_dagster.settings import SettingsError

MANIFEST_TEMPLATE = "music/manifest.example.csv"
_GITIGNORE = ".gitignore"
_IGNORED = ("/data/", "/warehouse/*.duckdb*", "/dvc_plots/", ".tmp_dagster_home_*/", "/.venv/")
_EXPERIMENTS = """
experiments: {}               # cohorts × methods × combinations of settings; see the README
"""
_EXAMPLES = (
    {
        "audio": "first.wav",
        "caption": "A calm chorale for string quartet",
        "track_id": "first",
        "title": "First Piece",
        "artist": "An Artist",
        "rightsholder": "A Label",
        "tempo_bpm": "84",
    },
    {
        "audio": "album/second.flac",
        "caption": "A lively jig for solo flute",
        "track_id": "second",
        "title": "Second Piece",
        "artist": "Another Artist",
        "rightsholder": "Another Label",
        "licence": "CC-BY-4.0",
    },
)


def lay_out(folder: Path) -> list[Path]:
    """Write the templates of a study into a folder; returns the paths of the files.

    Raises SettingsError where a study has been laid out already. A `.gitignore` that is there
    keeps its lines.
    """
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder}: this is a file; name a new or empty folder")
    texts = _texts()
    present = [name for name in texts if (folder / name).exists()]
    if present:
        raise SettingsError(f"{folder / present[0]}: exists already; choose another folder")
    texts[_GITIGNORE] = _gitignore(folder / _GITIGNORE)
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def next_steps(folder: Path) -> str:
    """What to do with a folder that was just laid out, as lines to print."""
    enter = "" if folder.resolve() == Path.cwd() else f"  cd {folder}\n"
    return f"""
Now:

{enter}  tda run                  attributes cohorts/reference.yaml on the embedded reference study

With your own music and model:
  1. list your audio files in music/manifest.csv ({MANIFEST_TEMPLATE} shows the columns;
     audio and caption are required, paths start at the manifest's folder)
  2. in params.yaml set dataset.manifest to music/manifest.csv and model.pipeline to a diffusers
     StableAudioPipeline (folder, URL or hub id)
  3. write into cohorts/reference.yaml which pieces to attribute: prompts or audio files
  4. tda run

To keep settings and results under version control, and to compare them:
  git init && dvc init     once; then `dvc repro` runs what has changed, as `tda run` does"""


def _texts() -> dict[str, str]:
    """Text by file name."""
    settings, _, _ = _template("params.yaml").partition("\nexperiments:")
    return {
        # The experiments that ship are those of the reference study, with cohorts of their own.
        "params.yaml": settings + _EXPERIMENTS,
        "cohorts/reference.yaml": _template("cohorts/reference.yaml"),
        "dvc.yaml": _template("dvc.yaml"),
        MANIFEST_TEMPLATE: _manifest(),
    }


def _manifest() -> str:
    text = io.StringIO()
    columns = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    rows = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    rows.writeheader()
    rows.writerows(_EXAMPLES)
    return text.getvalue()


def _gitignore(path: Path) -> str:
    """The lines of the file that is there, and the study's that it lacks."""
    present = path.read_text(encoding="utf-8") if path.is_file() else ""
    missing = [line for line in _IGNORED if line not in present.splitlines()]
    if present and not present.endswith("\n"):
        present += "\n"
    return present + "".join(f"{line}\n" for line in missing)


def _template(name: str) -> str:
    """The template from the wheel, or from the repository when installed from there."""
    inside = files("tda_dagster") / "template" / name
    if inside.is_file():
        return inside.read_text(encoding="utf-8")
    return (Path(__file__).parent.parent / name).read_text(encoding="utf-8")
