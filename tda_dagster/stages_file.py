"""`dvc.yaml`, as far as this package reads it: its own stages, and the cohort that they compute."""

import re
import shlex
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tda_dagster.settings import SettingsError

INPUTS_STAGE = "inputs"
_DEFAULT_COHORT = "reference"
_ALWAYS = re.compile(
    rf"^(?P<before>  {INPUTS_STAGE}:\n(?:(?: {{4}}.*)?\n)*? {{4}}always_changed: )(true|false)\b",
    re.MULTILINE,
)


class StagesFile:
    """The `dvc.yaml` of a study's folder; a study without one has no stages."""

    def __init__(self, root: Path) -> None:
        self._path = root / "dvc.yaml"

    @property
    def names(self) -> list[str]:
        """The stages that run `tda`, in the order of the file."""
        return list(self._commands)

    @property
    def cohort(self) -> str:
        """The cohort that the stages compute: the one that their commands name."""
        for words in self._commands.values():
            for word, following in zip(words, [*words[1:], ""], strict=True):
                if word in ("-c", "--cohort"):
                    return following
                if word.startswith("--cohort="):
                    return word.partition("=")[2]
        return _DEFAULT_COHORT

    def run_inputs_always(self, always: bool) -> None:
        """Write whether DVC runs the stage `inputs` whatever it sees; all else stays as it is."""
        if self._path.is_file():
            text = self._path.read_text(encoding="utf-8")
            told = _ALWAYS.sub(
                lambda found: found["before"] + ("true" if always else "false"), text
            )
            if told != text:
                staged = self._path.with_suffix(".tmp")
                staged.write_text(told, encoding="utf-8")
                staged.replace(self._path)

    @cached_property
    def _commands(self) -> dict[str, list[str]]:
        try:
            read: Any = yaml.safe_load(self._path.read_text(encoding="utf-8"))
            stages = read["stages"].items()
            commands = {name: shlex.split(str(stage.get("cmd", ""))) for name, stage in stages}
        except FileNotFoundError:
            return {}
        except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise SettingsError(
                f"{self._path}: its stages cannot be read: {error}; mend it, or copy it from a "
                "new folder (`tda init`)"
            ) from None
        return {name: words for name, words in commands.items() if words[:1] == ["tda"]}
