import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from tda_dagster.history import HistoryError
from tda_dagster.history.ancestors import Node, ancestor_tree
from tda_dagster.history.render import lineage_view
from tda_dagster.history.score_lineage import score_lineage
from tda_dagster.store import Recipe, digest_of
from tda_dagster.store.snapshots import add_snapshot, open_snapshot


def nodes(node: Node) -> list[Node]:
    return [node, *(inner for source in node.inputs for inner in nodes(source))]


def spine(node: Node) -> list[str]:
    """The way down to the node that lies furthest from the root."""
    below = max((spine(source) for source in node.inputs), key=len, default=[])
    return [node.ref.recipe.asset, *below]


def test_the_way_goes_from_the_scores_to_the_music(study: Any) -> None:
    study.make()
    found = score_lineage(study.store, "demo-000")
    assert spine(found.tree)[:-1] == [
        "attribution/scores",
        "unlearned/losses",
        "unlearned/checkpoints",
        "base/fisher",
        "base/checkpoint",
        "dataset/latents",
        "dataset/index",
    ]
    below = [node.ref.recipe.asset for node in nodes(found.tree)]
    assert "dataset/manifest" in below
    assert len(below) == len(set(below)) == 11


def test_every_ancestor_appears_once_and_every_input_is_named(study: Any) -> None:
    made = study.make()
    tree = ancestor_tree(study.store, made["attribution/scores"])
    for node in nodes(tree):
        named = {source.ref.recipe.asset for source in node.inputs} | set(node.also_read)
        assert named == set(node.ref.recipe.inputs)
        assert node.is_live


def test_a_setting_is_said_once_where_it_is_nearest_to_the_scores(study: Any) -> None:
    made = study.make()
    tree = ancestor_tree(study.store, made["attribution/scores"])
    said = [(n.ref.recipe.asset, key) for n in nodes(tree) for key, _ in n.settings]
    keys = [key for _, key in said]
    assert len(keys) == len(set(keys))
    where = {key: asset for asset, key in said}
    assert where["noise.draws"] == "attribution/scores"
    assert where["fisher.draws"] == "base/fisher"
    assert where["model.training.steps"] == "base/checkpoint"


def test_the_most_influential_tracks_come_with_their_audio(study: Any) -> None:
    study.make()
    found = score_lineage(study.store, "demo-000", top=3)
    assert [i.rank for i in found.influences] == sorted(i.rank for i in found.influences)
    first = found.influences[0]
    assert (first.track_id, first.segment_id, first.rank) == ("t03", "t03:0000", 1)
    assert first.audio_sha256 == digest_of(b"audio of t03")
    assert first.is_kept is True
    assert len({i.track_id for i in found.influences}) == 3
    assert found.segments == 26
    assert (found.prompt, found.seed) == ("a slow piano", 0)


def test_files_that_bear_on_the_query_and_its_best_segment_are_named(study: Any) -> None:
    made = study.make()
    found = score_lineage(study.store, "demo-001")
    files = {n.ref.recipe.asset: [f.name for f in n.files] for n in nodes(found.tree)}
    assert files["unlearned/checkpoints"] == ["demo-001.safetensors"]
    assert files["cohort/queries"] == ["audio/demo-001.flac"]
    # t04:0000 is the ninth training segment, shards hold four
    assert files["dataset/latents"] == ["train-00002.safetensors"]
    latents = study.store.artifact(made["dataset/latents"].digest)
    (node,) = [n for n in nodes(found.tree) if n.ref.recipe.asset == "dataset/latents"]
    assert node.files[0].digest == latents.files["train-00002.safetensors"].digest


def test_one_segment_or_track_can_be_asked_for(study: Any) -> None:
    made = study.make()
    scores = pl.read_parquet(
        study.store.artifact(made["attribution/scores"].digest).path("scores.parquet")
    ).filter(query_id="demo-000")
    (of_segment,) = score_lineage(study.store, "demo-000", segment="t07:0001").influences
    assert of_segment.score == scores.filter(segment_id="t07:0001")["score"].item()
    (of_track,) = score_lineage(study.store, "demo-000", track="t07").influences
    assert of_track.rank == scores.filter(pl.col("segment_id").str.starts_with("t07"))["rank"].min()


def test_what_is_no_longer_live_is_said_to_be_so(study: Any) -> None:
    old = study.make()
    study.make(fisher_draws=2)
    tree = ancestor_tree(study.store, old["attribution/scores"])
    stale = {n.ref.recipe.asset for n in nodes(tree) if not n.is_live}
    assert stale == {
        "base/fisher", "unlearned/checkpoints", "unlearned/losses", "attribution/scores"
    }  # fmt: skip


def test_a_snapshot_answers_as_it_was(study: Any) -> None:
    study.make()
    before = score_lineage(study.store, "demo-000")
    add_snapshot(study.store, "v1")
    study.make(fisher_draws=2)
    assert score_lineage(study.store, "demo-000") != before
    assert score_lineage(open_snapshot(study.store, "v1"), "demo-000") == before


def test_audio_that_is_not_what_was_recorded_shows(study: Any) -> None:
    """A file was exchanged between its recording in the manifest and the making of the index."""
    made = study.make()
    store = study.store
    manifest = store.artifact(made["dataset/manifest"].digest)

    def other_bytes(out: Path) -> None:
        manifest.export(out)
        recorded = pl.read_parquet(out / "audio_files.parquet")
        other = pl.when(audio="t03.wav").then(pl.lit("f" * 64)).otherwise("audio_sha256")
        recorded.with_columns(audio_sha256=other).write_parquet(out / "audio_files.parquet")

    recipe = made["dataset/manifest"].recipe
    forged = store.materialize(replace(recipe, code_version="0"), other_bytes).ref
    index = made["dataset/index"]
    inputs = index.recipe.inputs | {"dataset/manifest": forged.digest}
    forged_index = Recipe("dataset/index", code_version="0", inputs=inputs)
    (path,) = (study.root / "refs" / "dataset" / "index" / "_").iterdir()
    path.unlink()
    store.commit(forged_index, index.digest, run_id="", device="cpu", seconds=0)
    study.store.set_head(store.find(forged_index))
    found = score_lineage(store, "demo-000")
    assert [i.is_kept for i in found.influences] == [False, True, True, True, True]
    assert "not what the manifest recorded" in shown(found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"query_id": "demo-007"}, ["demo-007", "demo-000", "demo-001"]),
        ({"method": "mucs"}, ["mucs", "fim-unlearning-"]),
        ({"segment": "t99:0000"}, ["t99:0000", "dim_segment"]),
        ({"segment": "t03:0009"}, ["t03:0009", "t03:0000, t03:0001"]),
        ({"segment": "t13:0000"}, ["held out"]),
        ({"track": "T0"}, ["t00, t01"]),
        ({"track": "t13"}, ["held out"]),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(
    study: Any, arguments: dict[str, str], words: list[str]
) -> None:
    study.make()
    query = arguments.pop("query_id", "demo-000") if "query_id" in arguments else "demo-000"
    with pytest.raises(HistoryError) as error:
        score_lineage(study.store, query, **arguments)
    assert all(word in str(error.value) for word in words)


def test_of_several_methods_one_must_be_named(study: Any) -> None:
    study.make()
    study.make(learning_rate=0.2)
    study.make(method="mucs")
    with pytest.raises(HistoryError, match=r"fim-unlearning-.*fim-unlearning-.*mucs-"):
        score_lineage(study.store, "demo-000")
    assert score_lineage(study.store, "demo-000", method="mucs").method_id.startswith("mucs-")
    with pytest.raises(HistoryError, match="several methods"):
        score_lineage(study.store, "demo-000", method="fim_unlearning")
    (one, _) = [p for p in study.store.partitions("attribution/scores") if "|fim" in p]
    method_id = one.partition("|")[2]
    assert score_lineage(study.store, "demo-000", method=method_id).method_id == method_id
    by_default = score_lineage(study.store, "demo-000", preferred=["mucs", "fim_unlearning"])
    assert by_default.method_id.startswith("mucs-")


def test_a_query_that_was_never_attributed_says_how(study: Any) -> None:
    made = study.make()
    store = study.store
    queries = made["cohort/queries"]
    other = pl.read_parquet(store.artifact(queries.digest).path("queries.parquet")).with_columns(
        query_id=pl.lit("new-000"), cohort=pl.lit("new")
    )
    recipe = type(queries.recipe)("cohort/queries", partition="new", code_version="1")
    store.materialize(recipe, lambda out: other.head(1).write_parquet(out / "queries.parquet"))
    with pytest.raises(HistoryError, match="tda run new"):
        score_lineage(store, "new-000")


def shown(found: Any) -> str:
    console = Console(width=150, file=io.StringIO())
    console.print(lineage_view(found))
    text: str = console.file.getvalue()
    return text


def test_the_printed_tree_holds_digests_settings_times_and_audio(study: Any) -> None:
    made = study.make(prompts=("[bold]brackets[/bold]", "b"))
    text = shown(score_lineage(study.store, "demo-000"))
    for asset, ref in made.items():
        if asset != "warehouse/duckdb":
            assert asset in text
            assert ref.digest[:12] in text
    assert "“[bold]brackets[/bold]”" in text
    assert "fisher: draws 4" in text
    assert "run run-1234" in text
    assert digest_of(b"audio of t03") in text
