"""Laying out a new study's folder for somebody who installed the package."""

from importlib.resources import files
from pathlib import Path

from tda_dagster.settings import SettingsError

COHORTS = ("reference", "comparison", "self_influence", "versions")
TEMPLATES = ("params.yaml", "dvc.yaml", *(f"cohorts/{name}.yaml" for name in COHORTS))


def lay_out(folder: Path) -> list[Path]:
    """Write the template of a study into a folder; refuses one that has settings already."""
    present = [name for name in TEMPLATES if (folder / name).exists()]
    if present:
        raise SettingsError(f"{folder / present[0]}: exists already; choose another folder")
    written = []
    for name in TEMPLATES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_template(name), encoding="utf-8")
        written.append(path)
    return written


def _template(name: str) -> str:
    """The template from the wheel, or from the repository when installed from there."""
    inside = files("tda_dagster") / "template" / name
    if inside.is_file():
        return inside.read_text(encoding="utf-8")
    return (Path(__file__).parent.parent / name).read_text(encoding="utf-8")
