"""Lineages, differences and the state of a store, for people at a terminal."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from tda_dagster.history.ancestors import File, Node
from tda_dagster.history.difference import Difference, OneSided, ScoreChange, TrackPlace
from tda_dagster.history.score_lineage import Influence, ScoreLineage
from tda_dagster.history.settings_text import short
from tda_dagster.masking import masked
from tda_dagster.store import Problem, Ref
from tda_dagster.store.collection import NOBODY, Plan
from tda_dagster.store.snapshots import Snapshot
from tda_dagster.terminal import Styled, one_line, styled

_SHOWN_SHARES = 6
_LEAST_SHARE = 0.0005
"""Changes of shares below this are not shown: they would print as nothing."""
_SHOWN_NAMES = 12
_SHOWN_USERS = 3
_SPECS = "method/spec"
"""As `partitions.SPEC_ASSET`, which cannot be had without importing Dagster, and that is slow."""


def lineage_view(found: ScoreLineage) -> Group:
    """A score's lineage: what is most influential, and the tree of what it was made from."""
    head = styled(
        (found.query_id, "bold"),
        f"  {found.kind}  “{one_line(found.prompt)}”",
        ("" if found.seed is None else f" seed {found.seed}", "dim"),
        ("\nby", "dim"),
        f" {found.method_id} ",
        (f"over {found.segments} segments", "dim"),
    )
    return Group(head, _influence_table(found.influences), _tree(found))


def _influence_table(influences: Iterable[Influence]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name, justify in (
        ("rank", "right"),
        ("score", "right"),
        ("segment", "left"),
        ("track", "left"),
        ("rightsholder", "left"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for influence in influences:
        error = f" ± {influence.score_se:.1e}" if influence.score_se is not None else ""
        table.add_row(
            str(influence.rank),
            f"{influence.score:.3e}{error}",
            one_line(influence.segment_id),
            one_line(f"{influence.title} by {influence.composer}"),
            one_line(influence.rightsholder),
        )
    return table


def _tree(found: ScoreLineage) -> Tree:
    tree = Tree(_label(found.tree), guide_style="dim")
    _grow(tree, found.tree, found)
    return tree


def _grow(tree: Tree, node: Node, found: ScoreLineage) -> None:
    for file in node.files:
        tree.add(_file_line(file))
    if node.ref.recipe.asset == "dataset/manifest":
        for influence in found.influences:
            tree.add(_audio_line(influence))
    for source in node.inputs:
        _grow(tree.add(_label(source)), source, found)


def _label(node: Node) -> Text:
    ref = node.ref
    partition = f"[{one_line(ref.recipe.partition)}]" if ref.recipe.partition else ""
    made = (
        f"made {_moment(ref.created_at)} on {one_line(ref.device)} in {_seconds(ref)}"
        f" · code version {one_line(ref.recipe.code_version)}{_run(ref)}"
    )
    label = styled(
        (one_line(ref.recipe.asset), "bold"),
        (f" {partition}" if partition else "", "cyan"),
        f" {short(ref.digest)}",
        ("" if node.is_live else " no longer the live one", "yellow"),
        (f"\n{made}", "dim"),
    )
    for line in _settings_lines(node.settings):
        label.append("\n").append_text(line)
    if node.also_read:
        also = f"\nalso from (further down) {one_line(', '.join(node.also_read))}"
        label.append_text(styled((also, "dim")))
    return label


def _settings_lines(settings: Iterable[tuple[str, str]]) -> Iterator[Text]:
    """The settings, a line for each section."""
    sections: dict[str, list[Styled]] = {}
    for key, value in settings:
        section, _, name = key.rpartition(".")
        said = sections.setdefault(section, [])
        said += [", " if said else "", f"{one_line(name)} ", (one_line(value), "bold")]
    for section, said in sections.items():
        yield styled((f"{one_line(section)}: " if section else "", "dim"), *said)


def _file_line(file: File) -> Text:
    return styled(
        (one_line(file.name), "green"),
        f" {short(file.digest)} ",
        (one_line(file.meaning), "dim"),
    )


def _audio_line(influence: Influence) -> Text:
    kept: tuple[Styled, ...]
    match influence.is_kept:
        case True:
            kept = (("✓", "green"), (" the recorded bytes", "dim"))
        case False:
            kept = (("not what the manifest recorded", "red"),)
        case _:
            kept = ()
    holds = (
        f"\nholds {one_line(influence.segment_id)} ({short(influence.segment_sha256)}), rank "
        f"{influence.rank}"
    )
    return styled(
        (one_line(masked(influence.audio)), "green"),
        f" sha256 {influence.audio_sha256} ",
        *kept,
        (holds, "dim"),
    )


def _moment(created_at: str) -> str:
    return f"{datetime.fromisoformat(created_at):%Y-%m-%d %H:%M} UTC"


def _seconds(ref: Ref) -> str:
    return f"{ref.seconds:.1f} s"


def _run(ref: Ref) -> str:
    return f" · run {one_line(ref.run_id[:8])}" if ref.run_id else ""


def problem_lines(problems: Iterable[Problem]) -> Iterator[Text]:
    """One line for each damaged file, with what it spoils and what to do."""
    by_path: dict[str, list[Problem]] = {}
    for problem in problems:
        by_path.setdefault(problem.path, []).append(problem)
    for path, spoilt in by_path.items():
        # What is live comes first: making that again mends the others, too.
        spoilt.sort(key=lambda problem: (not problem.needed, bool(problem.pinned_by)))
        users = list(dict.fromkeys(_user(problem) for problem in spoilt if problem.asset))
        shown = ", ".join(users[:_SHOWN_USERS]) + (
            f" and {len(users) - _SHOWN_USERS} more" if len(users) > _SHOWN_USERS else ""
        )
        yield styled(
            (spoilt[0].kind, "red"),
            f" {one_line(path)}:{f' spoils {shown};' if users else ''} ",
            ("what to do:", "dim"),
            f" {one_line(_remedy(spoilt[0]))}",
        )


def _user(problem: Problem) -> str:
    place = f" [{one_line(problem.partition)}]" if problem.partition else ""
    entry = one_line(problem.entry) if problem.entry else "its list of files"
    return f"{one_line(problem.asset)}{place} ({entry})"


def _remedy(problem: Problem) -> str:
    if not problem.asset:
        if problem.needed:
            return problem.detail
        return (
            "nothing; no asset needs it, and it is replaced if one is made that does "
            "(`tda gc --delete` removes it when it is a day old)"
        )
    if problem.pinned_by:
        names = ", ".join(problem.pinned_by)
        return (
            f"only the snapshot {names} needs it: put the file back from a backup, or give the "
            f"snapshot up (tda snapshot remove {problem.pinned_by[0]})"
        )
    if problem.entry.startswith("inputs/"):
        return "put the file back from a backup; nothing in the study makes it"
    if not problem.needed:
        return "nothing; it is made again if it is asked for"
    if problem.asset == _SPECS:
        return "run `tda partitions`, which writes it again"
    cohort = problem.partition.partition("|")[0]
    option = f" --cohort {cohort}" if cohort else ""
    return (
        f"run `tda materialize {problem.asset}{option}`, which makes it again, or put the file "
        "back from a backup"
    )


def collection_table(plan: Plan) -> Table:
    """What a collection would remove, per asset."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("asset")
    for name in ("refs", "blobs", "MB"):
        table.add_column(name, justify="right")
    for asset, tally in plan.by_asset.items():
        what = styled(asset if asset != NOBODY else ("uploads without a ref", "dim"))
        table.add_row(what, str(tally.refs), str(tally.blobs), f"{tally.size_bytes / 1e6:.1f}")
    table.add_row(
        styled(("together", "bold")),
        str(len(plan.refs)),
        str(len(plan.blobs)),
        f"{plan.size_bytes / 1e6:.1f}",
    )
    return table


def snapshot_table(snapshots: Iterable[Snapshot]) -> Table:
    """Snapshots by age."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("snapshot")
    table.add_column("taken")
    table.add_column("artifacts", justify="right")
    table.add_column("note", overflow="fold")
    for snapshot in snapshots:
        table.add_row(
            styled((one_line(snapshot.name), "bold")),
            _moment(snapshot.created_at),
            str(len(snapshot.pins)),
            one_line(snapshot.note),
        )
    return table


def difference_view(found: Difference) -> Group:
    """What changed between two states, and why."""
    parts: list[RenderableType] = []
    changed = found.changed
    same = len(found.scores) - len(changed)
    same_too = f", {same} are the same to the last bit" if same and changed else ""
    parts.append(
        styled(
            (f"{one_line(found.before)} → {one_line(found.after)}", "bold"),
            f"  {len(changed)} of {len(found.scores)} attributions differ{same_too}",
        )
    )
    parts += [styled((one_line(note), "yellow")) for note in found.notes]
    parts += _why(found)
    parts += [Text(line) for line in _only(found)]
    if changed:
        parts += [Text(""), _scores_table(changed), Text(""), _shares_table(changed)]
    return Group(*parts)


def _why(found: Difference) -> Iterator[Text]:
    if not (found.causes or found.changed_tracks):
        return
    yield styled(("\nwhy", "bold"))
    for cause in found.causes:
        yield styled(f"  {one_line(cause)}")
    for change in found.changed_tracks[:_SHOWN_NAMES]:
        yield styled(f"  {one_line(change)} ", (f"({one_line(change.title)})", "dim"))
    if (more := len(found.changed_tracks) - _SHOWN_NAMES) > 0:
        yield styled((f"  and {more} more changes to tracks (--json has all)", "dim"))


def _only(found: Difference) -> Iterator[str]:
    sides: tuple[tuple[str, OneSided], ...] = (
        ("tracks", found.tracks),
        ("queries", found.queries),
        ("methods", found.methods),
    )
    for what, sided in sides:
        for name, members in ((found.before, sided.before), (found.after, sided.after)):
            if members:
                shown = ", ".join(members[:_SHOWN_NAMES])
                more = len(members) - _SHOWN_NAMES
                rest = f" and {more} more" if more > 0 else ""
                yield f"{what} only in {one_line(name)}: {one_line(shown)}{rest}"


def _scores_table(changes: list[ScoreChange]) -> Table:
    table = Table(header_style="dim", title="scores", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("query")
    table.add_column("method", overflow="fold")
    table.add_column("rank\ncorrelation", justify="right")
    table.add_column("segments\nin both", justify="right")
    table.add_column("entered the top ten", overflow="fold")
    table.add_column("left it", overflow="fold")
    for change in changes:
        moved = "\nits own audio changed" if change.query_changed else ""
        table.add_row(
            styled(one_line(change.query_id), (moved, "yellow")),
            _method(change),
            "–" if change.spearman is None else f"{change.spearman:.3f}",
            _segments(change),
            _places(change.entered, change),
            _places(change.left, change),
        )
    return table


def _method(change: ScoreChange) -> str:
    if change.method_before == change.method_after:
        return one_line(change.label)
    return f"{one_line(change.label)}\n{change.method_before} → {change.method_after}"


def _segments(change: ScoreChange) -> Text:
    if change.segments == change.segments_before == change.segments_after:
        return styled(str(change.segments))
    of = f"\nof {change.segments_before} → {change.segments_after}"
    return styled(str(change.segments), (of, "dim"))


def _places(places: Iterable[TrackPlace], change: ScoreChange) -> Text:
    titles = [place.title for place in (*change.entered, *change.left)]
    lines = []
    for place in places:
        before, after = ("–" if p is None else str(p) for p in (place.before, place.after))
        # Renditions of one piece share its title.
        which = f" ({one_line(place.track_id)})" if titles.count(place.title) > 1 else ""
        title = f"{one_line(place.title)}{which} "
        lines.append(styled(title, (f"{before} → {after}", "dim")))
    return Text("\n").join(lines)


def _shares_table(changes: list[ScoreChange]) -> Table:
    table = Table(
        header_style="dim", title="shares of rightsholders", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("query")
    table.add_column("method", overflow="fold")
    table.add_column("rightsholder", overflow="fold")
    for name in ("before", "after", "difference"):
        table.add_column(name, justify="right")
    for change in changes:
        moved = [s for s in change.shares if abs(s.difference) >= _LEAST_SHARE]
        for number, share in enumerate(moved[:_SHOWN_SHARES]):
            table.add_row(
                one_line(change.query_id) if number == 0 else "",
                one_line(change.label) if number == 0 else "",
                one_line(share.rightsholder),
                f"{share.before:.1%}",
                f"{share.after:.1%}",
                f"{100 * share.difference:+.1f} points",
                end_section=number == min(len(moved), _SHOWN_SHARES) - 1,
            )
    return table
