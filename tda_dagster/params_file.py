"""Changing one setting in params.yaml, of which all else stays as it is written.

What belongs here: finding the place in the text. YAML libraries that write a file anew take its
comments, its indentation or its spelling of null away.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, SequenceNode

from tda_dagster.yaml_files import read_yaml_text


def put_setting(path: Path, section: str, key: str, value: Sequence[str]) -> None:
    """Write `section.key: value` into the YAML file, whether or not it has the key, or the
    section. Raises `SettingsError` for a file that `load_yaml` does not read."""
    text = read_yaml_text(path)
    setting = f"{key}: {json.dumps(value, ensure_ascii=False)}"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    _, inside = _find(root, section)
    name, present = _find(inside, key)
    if name is not None and present is not None:
        changed = _replaced(text, name, present, setting)
    elif isinstance(inside, MappingNode):
        changed = _inserted(text, inside, setting)
    elif inside is not None:  # a section of nothing
        changed = _replaced(text, inside, inside, f" {{{setting}}}")
    elif isinstance(root, MappingNode):
        changed = _inserted(text, root, f"{section}: {{{setting}}}")
    else:
        changed = f"{text}{section}:\n  {setting}\n"
    staged = path.with_suffix(".tmp")
    staged.write_text(changed, encoding="utf-8")
    staged.replace(path)


def _find(mapping: Node | None, name: str) -> tuple[Node | None, Node | None]:
    """A key of a mapping and its value."""
    if isinstance(mapping, MappingNode):
        for key, value in mapping.value:
            if key.value == name:
                return key, value
    return None, None


def _replaced(text: str, first: Node, last: Node, by: str) -> str:
    """The text with everything from one node to the end of another replaced."""
    if isinstance(last, SequenceNode) and not last.flow_style:
        last = last.value[-1]  # the block itself ends where the next key begins
    return text[: first.start_mark.index] + by + text[last.end_mark.index :]


def _inserted(text: str, mapping: MappingNode, setting: str) -> str:
    """The text with another member at the beginning of a mapping."""
    start = mapping.start_mark
    if not mapping.flow_style:
        return f"{text[: start.index]}{setting}\n{' ' * start.column}{text[start.index :]}"
    comma = ", " if mapping.value else ""
    return f"{text[: start.index + 1]}{setting}{comma}{text[start.index + 1 :]}"
