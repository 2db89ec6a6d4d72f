"""Settings of recipes as flat keys, and as words."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tda_dagster.masking import masked

_DIGEST = re.compile(r"[0-9a-f]{64}")
SHORT = 12
"""Digits of a digest that are shown to people."""


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a recipe as dotted keys, lists by number ("queries[2].prompt").

    What a method spec holds is called as in `params.yaml`, without "method." before it, so that a
    setting has one name wherever it enters a recipe. Lists of plain values stay whole.
    """
    return {_named(key): value for key, value in _flat(config, "")}


def spoken(value: Any) -> str:
    """A setting's value in a few words: digests shortened, long texts cut."""
    if value is None:
        return "null"
    if isinstance(value, str):
        if _DIGEST.fullmatch(value):
            return short(value)
        text = masked(value)
        return text if len(text) <= 80 else text[:77] + "…"
    if isinstance(value, list | dict) and len(value) > 6:
        return f"({len(value)} of them)"
    return json.dumps(value, ensure_ascii=False)


def short(digest: str) -> str:
    """The first digits of a digest."""
    return digest[:SHORT]


def _named(key: str) -> str:
    return key.removeprefix("method.")


def _flat(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{at}.{key}" if at else key)
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{at}[{number}]")
    else:
        yield at, value
