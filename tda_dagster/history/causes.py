"""Why artifacts differ: the settings, code and outside inputs that differ behind them.

What belongs here: walking two lineages side by side, from artifacts whose bytes differ down to
where the difference begins. Equal bytes end the walk: what differs behind them made no difference.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tda_dagster.history.settings_text import flat_settings, spoken
from tda_dagster.store import Ref
from tda_dagster.store.lineage import ancestry
from tda_dagster.store.snapshots import StoreView

_MOST_ASSETS = 3
ABSENT = "absent"
"""Said of a setting that only one side has."""


@dataclass(frozen=True)
class Cause:
    """One thing that differs between two lineages and has no cause in them.

    `assets` are those whose recipes hold it, nearest to the music first; `partitions` the live
    artifacts it bears on. `key` is the setting's or the input's name, empty for code versions.
    """

    kind: Literal["setting", "code", "input", "bytes"]
    assets: tuple[str, ...]
    key: str
    before: Any
    after: Any
    partitions: tuple[str, ...]

    def __str__(self) -> str:
        more = len(self.assets) - _MOST_ASSETS
        where = ", ".join(self.assets[:_MOST_ASSETS]) + (f" and {more} more" if more > 0 else "")
        change = f"{spoken(self.before)} → {spoken(self.after)}"
        match self.kind:
            case "setting" if self.key.startswith("outside."):
                what = self.key.removeprefix("outside.")
                return f"outside the study, {what} of {where} changed: {change}"
            case "setting":
                return f"{self.key} {change} in {where}"
            case "code":
                return f"code version of {where}: {change}"
            case "input":
                return f"input {self.key} of {where}: {change}"
            case "bytes":
                return f"{where} was made twice from the same recipe with other bytes: {change}"


class _Found(NamedTuple):
    kind: Literal["setting", "code", "input", "bytes"]
    asset: str
    key: str
    before: Any
    after: Any


_Sources = Mapping[tuple[str, str], Ref | None]
_Report = Callable[[_Found], bool]


def find_causes(
    pairs: Sequence[tuple[Ref, Ref]], before: StoreView, after: StoreView
) -> list[Cause]:
    """The causes of all differences between the pairs' bytes, those nearest to the music first."""
    old = _sources([pair[0] for pair in pairs], before)
    new = _sources([pair[1] for pair in pairs], after)
    assets: dict[tuple[str, str, str, str], list[str]] = {}
    partitions: dict[tuple[str, str, str, str], list[str]] = {}
    examples: dict[tuple[str, str, str, str], _Found] = {}
    walked: dict[tuple[str, str], list[_Found]] = {}
    for pair in pairs:
        for found in _walk(*pair, old, new, walked):
            # Code versions of different assets are different things, equal settings are one.
            own = found.asset if found.kind != "setting" else ""
            same = (found.kind, own + found.key, repr(found.before), repr(found.after))
            examples.setdefault(same, found)
            _note(assets.setdefault(same, []), found.asset)
            _note(partitions.setdefault(same, []), pair[1].recipe.partition)
    return [
        Cause(f.kind, tuple(assets[same]), f.key, f.before, f.after, tuple(partitions[same]))
        for same, f in examples.items()
    ]


def own_causes(before: Ref, after: Ref) -> list[Cause]:
    """What differs in the code and the settings of two refs themselves."""
    return [
        Cause(f.kind, (f.asset,), f.key, f.before, f.after, (after.recipe.partition,))
        for f in _own(before, after)
    ]


def _walk(
    before: Ref,
    after: Ref,
    old: _Sources,
    new: _Sources,
    walked: dict[tuple[str, str], list[_Found]],
) -> list[_Found]:
    if before.digest == after.digest:
        return []
    place = (before.recipe.key, after.recipe.key)
    if place in walked:
        return walked[place]
    walked[place] = []  # ends a circle, should there be one
    found: dict[_Found, None] = {}
    theirs, ours = before.recipe.inputs, after.recipe.inputs
    changed = [name for name in sorted(theirs) if name in ours and theirs[name] != ours[name]]
    for name in changed:
        source, other = old[before.recipe.key, name], new[after.recipe.key, name]
        behind: list[_Found] = []
        if source is not None and other is not None and source.recipe.asset == other.recipe.asset:
            behind = _walk(source, other, old, new, walked)
        if not behind:
            behind = [_Found("input", after.recipe.asset, name, theirs[name], ours[name])]
        found |= dict.fromkeys(behind)
    own = list(_own(before, after))
    if not any(f.kind == "code" for f in own):  # new code may well read other things
        for name in sorted(set(theirs) ^ set(ours)):
            sides = theirs.get(name, ABSENT), ours.get(name, ABSENT)
            own.append(_Found("input", after.recipe.asset, name, *sides))
    if not found and not own:
        own = [_Found("bytes", after.recipe.asset, "", before.digest, after.digest)]
    walked[place] = [*found, *own]
    return walked[place]


def _own(before: Ref, after: Ref) -> Iterator[_Found]:
    asset = after.recipe.asset
    if before.recipe.code_version != after.recipe.code_version:
        yield _Found("code", asset, "", before.recipe.code_version, after.recipe.code_version)
    old, new = flat_settings(before.recipe.config), flat_settings(after.recipe.config)
    for key in dict.fromkeys([*old, *new]):
        sides = _plain(old.get(key, ABSENT)), _plain(new.get(key, ABSENT))
        if sides[0] != sides[1] or type(sides[0]) is not type(sides[1]):
            yield _Found("setting", asset, key, *sides)


def _plain(value: Any) -> Any:
    """A value that can be part of a key."""
    return tuple(value) if isinstance(value, list) else str(value) if value == {} else value


def _sources(refs: Sequence[Ref], view: StoreView) -> _Sources:
    return {(e.ref.recipe.key, e.name): e.source for e in ancestry(refs, view.refs())}


def _note(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)
