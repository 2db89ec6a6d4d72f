"""The ancestors of one artifact as a tree: each appears once, as far from the root as it goes.

What belongs here: turning the walk of `store.lineage`, which knows edges, into something a person
can read from top to bottom.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tda_dagster.history.settings_text import flat_settings, spoken
from tda_dagster.store import Edge, Ref
from tda_dagster.store.lineage import ancestry
from tda_dagster.store.snapshots import StoreView


@dataclass(frozen=True)
class File:
    """A file that matters, of an artifact or outside the store; `meaning` says why."""

    name: str
    digest: str
    meaning: str


@dataclass(frozen=True)
class Node:
    """An artifact with what it was made from.

    `settings` are those that no artifact nearer to the root has named already; `also_read` are the
    inputs that appear further down, under something else that was made from them.
    """

    ref: Ref
    is_live: bool
    settings: tuple[tuple[str, str], ...]
    files: tuple[File, ...]
    also_read: tuple[str, ...]
    inputs: tuple["Node", ...]


def ancestor_tree(
    view: StoreView, root: Ref, files: Callable[[Ref], Iterable[File]] = lambda ref: ()
) -> Node:
    """The tree of everything that `root` was made from. `files` says which files of an artifact
    matter."""
    edges = ancestry([root], view.refs())
    live = {ref.recipe.key for ref in view.heads()}
    inputs: dict[str, list[Edge]] = defaultdict(list)
    for edge in edges:
        inputs[edge.ref.recipe.key].append(edge)
    order = _from_the_root(root, inputs)
    parents = _furthest_parents(root, order, inputs)
    named: set[tuple[str, str]] = set()
    settings = {ref.recipe.key: _new_settings(ref, named) for ref in order}

    def node(ref: Ref) -> Node:
        own, elsewhere, raw = [], [], []
        for edge in inputs[ref.recipe.key]:
            if edge.source is None:
                raw.append(File(edge.name, ref.recipe.inputs[edge.name], "not made by the study"))
            elif parents[edge.source.recipe.key] == ref.recipe.key:
                own.append(node(edge.source))
            else:
                elsewhere.append(edge.name)
        return Node(
            ref=ref,
            is_live=ref.recipe.key in live,
            settings=settings[ref.recipe.key],
            files=(*files(ref), *raw),
            also_read=tuple(elsewhere),
            inputs=tuple(own),
        )

    return node(root)


def _from_the_root(root: Ref, inputs: dict[str, list[Edge]]) -> list[Ref]:
    """All refs, each after everything that was made from it."""
    done: dict[str, Ref] = {}
    stack: list[tuple[Ref, bool]] = [(root, False)]
    while stack:
        ref, finished = stack.pop()
        if ref.recipe.key in done:
            continue
        if finished:
            done[ref.recipe.key] = ref
            continue
        stack.append((ref, True))
        sources = (edge.source for edge in inputs[ref.recipe.key])
        stack += [(source, False) for source in sources if source is not None]
    return list(reversed(done.values()))


def _furthest_parents(root: Ref, order: list[Ref], inputs: dict[str, list[Edge]]) -> dict[str, str]:
    """For each ref the one, of those made from it, that is furthest from the root."""
    depth = {root.recipe.key: 0}
    parents: dict[str, str] = {}
    for ref in order:
        for edge in inputs[ref.recipe.key]:
            if edge.source is None:
                continue
            key, steps = edge.source.recipe.key, depth[ref.recipe.key] + 1
            if steps > depth.get(key, 0):
                depth[key], parents[key] = steps, ref.recipe.key
    return parents


def _new_settings(ref: Ref, named: set[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    found = []
    for key, value in flat_settings(ref.recipe.config).items():
        # A cohort's declaration speaks of all its queries; what matters of it is said apart.
        if value in (None, "", [], {}) or key.startswith(("outside.queries", "outside.cohort")):
            continue
        setting = (key, spoken(value))
        if setting not in named:
            named.add(setting)
            found.append(setting)
    return tuple(found)
