"""The study that a command works on, opened before anything else."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tda_dagster.workspace import Workspace


def open_workspace() -> "Workspace":
    """The study of the present folder (or of TDA_WORKSPACE), with its settings read: a mistake in
    params.yaml is told before anything starts. Raises SettingsError."""
    from tda_dagster.workspace import Workspace

    workspace = Workspace.find()
    _ = workspace.settings
    return workspace
