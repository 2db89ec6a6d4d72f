"""Numbers, lists and settings as the page says them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def fixed(value: float | None, digits: int = 2) -> str:
    """With so many digits after the point; a dash where it is not known."""
    if value is None:
        return "–"
    # Adding zero takes the sign off what is rounded to nothing.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def or_nan(value: float | None) -> float:
    """For figures, which leave out what is not a number."""
    return math.nan if value is None else value


def signed(value: float | None, digits: int = 2) -> str:
    """The same with its sign, also if it is a plus."""
    text = fixed(value, digits)
    return text if text.startswith(("−", "–")) else f"+{text}"


def percent(share: float | None) -> str:
    """In percent, with its sign."""
    return signed(None if share is None else 100 * share)


def between(low: float, high: float) -> str:
    """From the lower to the upper bound of an interval."""
    return f"{fixed(low)} to {fixed(high)}"


def cost(value: float | None) -> str:
    """Two digits at least, and no more places than make three."""
    if value is None:
        return "–"
    power = math.floor(math.log10(value)) if value > 0 else 0
    digits = max(0, 2 - power) if power >= 0 else 1 - power
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def short(text: str, letters: int = 64) -> str:
    """The beginning of a text, for a figure's margin."""
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}…"


def listed(names: Iterable[str], most: int | None = None) -> str:
    """a, b and c; of more than `most` the others are counted. Nothing for no names."""
    said = list(names)
    if not said:
        return ""
    if most is not None and len(said) > most + 1:
        said = [*said[:most], f"{len(said) - most} others"]
    *before, last = said
    return f"{', '.join(before)} and {last}" if before else last


def sizes(count: int | Sequence[int]) -> str:
    """One number, or several: 8; 2 and 8."""
    return str(count) if isinstance(count, int) else listed(map(str, count))


def capitalised(sentence: str) -> str:
    """With a capital at its beginning; the rest is left alone, names are written as they are."""
    return sentence[:1].upper() + sentence[1:]


def departure(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What the settings of the other have that those of the one have not, in words; "" for the
    same. Settings have the names that they have in params.yaml."""
    before, after = dict(_flat(one)), dict(_flat(other))
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    return ", ".join(f"{key} {_said(before.get(key))} → {_said(after.get(key))}" for key in changed)


def _flat(config: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _said(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
