"""Reading the YAML files that users write: `params.yaml` and cohorts.

What belongs here: limits on the size of a file and of what its aliases expand to, and messages of
one line. What the content means is checked by the models of `settings` and `workspace`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tda_dagster.errors import SettingsError, TdaError
from tda_dagster.quoting import brief, shown
from tda_dagster.text_files import decoded

_LARGEST_FILE = 4_000_000
_LARGEST_EXPANSION = 4 * _LARGEST_FILE
_DEEPEST = 100
_NODE = 8
"""Characters that a node counts for beside those of its text."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE_KEY = "<<"


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file (None if it is empty).

    Raises `SettingsError` in one line, and soon, for a file that cannot be read, is not UTF-8 or
    not YAML, is larger than 4 MB, is nested deeper than 100 levels, has aliases that expand to more
    than 16 MB, or gives a key twice. Raises `FileNotFoundError` if there is none, because only the
    caller knows what is missing.
    """
    text = read_yaml_text(path)
    try:
        return yaml.load(text, Loader=_Loader)  # a safe loader
    except yaml.YAMLError as error:
        raise SettingsError(_told(path, error)) from None
    except (ValueError, OverflowError, TypeError, RecursionError) as error:
        # Constructors of dates and numbers let these through: 2024-13-45, an int of 5,000 digits.
        reason = "a number has too many digits" if "digits" in str(error) else brief(error)
        raise SettingsError(f"{path}: a value cannot be read: {reason}") from None


def read_yaml_text(path: Path) -> str:
    """Return the text of a YAML file that keeps the limits of `load_yaml`; raises as that does."""
    if path.exists() and not path.is_file():  # a named pipe would block for ever
        raise SettingsError(f"{path}: not a regular file")
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST_FILE:
        raise SettingsError(f"{path}: larger than {_LARGEST_FILE / 1e6:g} MB")
    try:
        text = decoded(content, str(path), "the file")
    except TdaError as error:
        raise SettingsError(str(error)) from None
    _check(text, path)
    return text


@dataclass
class _Open:
    """A collection whose end has not been reached."""

    anchor: str | None
    is_mapping: bool
    size: int = _NODE
    children: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    """Line of each key."""


def _check(text: str, path: Path) -> None:
    """Walk the events, which takes time in proportion to the file, not to its expansion."""
    sizes: dict[str, int] = {}
    stack: list[_Open] = []
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                mapping = isinstance(event, yaml.MappingStartEvent)
                stack.append(_Open(event.anchor, mapping))
                if len(stack) > _DEEPEST:
                    raise SettingsError(
                        f"{path}: line {_line(event)}: nested deeper than {_DEEPEST} levels"
                    )
                continue
            if isinstance(event, yaml.CollectionEndEvent):
                closed = stack.pop()
                anchor, size = closed.anchor, closed.size
            elif isinstance(event, yaml.ScalarEvent):
                anchor, size = event.anchor, _NODE + len(event.value)
                _check_key(event, stack, path)
            elif isinstance(event, yaml.AliasEvent):
                anchor, size = None, _of_alias(event, sizes, stack, path)
            else:
                continue
            if anchor is not None:
                sizes[anchor] = size
            if stack:
                stack[-1].size += size
                stack[-1].children += 1
            if size > _LARGEST_EXPANSION or (stack and stack[-1].size > _LARGEST_EXPANSION):
                raise SettingsError(
                    f"{path}: line {_line(event)}: its aliases (*name) expand to more than "
                    f"{_LARGEST_EXPANSION / 1e6:g} MB"
                )
    except yaml.YAMLError as error:
        raise SettingsError(_told(path, error)) from None


def _check_key(event: yaml.ScalarEvent, stack: list[_Open], path: Path) -> None:
    inside = stack[-1] if stack else None
    if inside is None or not inside.is_mapping or inside.children % 2 or event.value == _MERGE_KEY:
        return
    if event.value in inside.lines:
        raise SettingsError(
            f"{path}: line {_line(event)}: the key {shown(event.value)} is given twice, first on "
            f"line {inside.lines[event.value]}; keep one of them"
        )
    inside.lines[event.value] = _line(event)


def _of_alias(event: yaml.AliasEvent, sizes: dict[str, int], stack: list[_Open], path: Path) -> int:
    name = str(event.anchor)
    if any(collection.anchor == name for collection in stack):
        raise SettingsError(
            f"{path}: line {_line(event)}: the alias *{brief(name, 80)} contains itself"
        )
    if name not in sizes:
        raise SettingsError(
            f"{path}: line {_line(event)}: the alias *{brief(name, 80)} stands for nothing above it"
        )
    return sizes[name]


def _line(event: yaml.Event) -> int:
    return 0 if event.start_mark is None else int(event.start_mark.line) + 1


def _told(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return f"{path}: not valid YAML: {brief(error)}"
    problem = getattr(error, "problem", None) or getattr(error, "context", None) or error
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    return f"{path}: not valid YAML: {where}: {brief(problem)}"
