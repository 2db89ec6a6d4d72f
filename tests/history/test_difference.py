import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from scipy.stats import spearmanr

from tda_dagster.history import HistoryError
from tda_dagster.history.causes import find_causes
from tda_dagster.history.content import build_database
from tda_dagster.history.difference import TOP, Difference, compare
from tda_dagster.history.render import difference_view
from tda_dagster.store import ArtifactStore
from tda_dagster.store.snapshots import add_snapshot, open_snapshot
from warehouse.build import query


def difference(study: Any, **changes: Any) -> Difference:
    """The usual study against one with changes."""
    add_snapshot(study.store, "before")
    study.make(**changes)
    return compare(open_snapshot(study.store, "before"), "before", study.store, "live")


def causes(found: Difference) -> list[str]:
    return [str(cause) for cause in found.causes]


def test_nothing_differs_from_itself(study: Any) -> None:
    found = difference(study)
    assert len(found.scores) == 2
    assert found.changed == []
    assert found.causes == ()
    assert all(score.spearman == 1.0 for score in found.scores)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fisher_draws": 2}, ["fisher.draws 4 → 2 in base/fisher"]),
        ({"training_steps": 9}, ["model.training.steps 100 → 9 in base/checkpoint"]),
        (
            {"fisher_draws": 2, "training_steps": 9},
            [
                "model.training.steps 100 → 9 in base/checkpoint",
                "fisher.draws 4 → 2 in base/fisher",
            ],
        ),
        ({"versions": {"base/fisher": "2"}}, ["code version of base/fisher: 1 → 2"]),
        ({"device": "cuda"}, ["model.device cpu → cuda in base/losses, base/fisher"]),
        (
            {"noise_draws": 4},
            [
                "noise.draws 8 → 4 in base/losses, unlearned/checkpoints, unlearned/losses and 1 "
                "more"
            ],
        ),
    ],
)
def test_only_the_roots_of_a_difference_are_named(
    study: Any, changes: dict[str, Any], expected: list[str]
) -> None:
    found = difference(study, **changes)
    assert sorted(causes(found)) == sorted(expected)
    assert len(found.changed) == 2


def test_causes_nearest_to_the_music_come_first(study: Any) -> None:
    found = difference(
        study, fisher_draws=2, training_steps=9, versions={"attribution/scores": "7"}
    )
    assert [cause.assets[0] for cause in found.causes] == [
        "base/checkpoint", "base/fisher", "attribution/scores"
    ]  # fmt: skip


def test_what_made_no_difference_is_no_cause(study: Any) -> None:
    """An ancestor of other settings and equal bytes ends the walk."""
    made = study.make()
    store = study.store
    recipe = made["base/fisher"].recipe
    store.materialize(
        type(recipe)(
            recipe.asset,
            code_version="2",
            config={"fisher": {"draws": 4, "batch_size": 99}},
            inputs=recipe.inputs,
        ),
        lambda out: store.artifact(made["base/fisher"].digest).export(out),
    )
    assert store.head("base/fisher") != made["base/fisher"]
    assert find_causes([(made["base/fisher"], store.head("base/fisher"))], store, store) == []


def test_a_changed_audio_file_is_named_by_its_track(study: Any) -> None:
    found = difference(study, audio={**study.usual.audio, "t05": b"remastered"})
    (cause,) = found.causes
    assert cause.assets == ("dataset/manifest",)
    assert cause.key == "outside.stamp"
    assert [str(change) for change in found.changed_tracks] == ["audio file of track t05 changed"]


def test_a_changed_rightsholder_changes_shares_and_is_named(study: Any) -> None:
    holders = {**study.usual.rightsholders, "t03": "a new owner"}
    found = difference(study, rightsholders=holders)
    assert [str(change) for change in found.changed_tracks] == [
        "rightsholder of track t03: 'north' → 'a new owner'"
    ]
    of_first = next(score for score in found.scores if score.query_id == "demo-000")
    shares = {share.rightsholder: share for share in of_first.shares}
    assert shares["a new owner"].before == 0
    assert shares["a new owner"].after > 0.3
    assert shares["north"].difference < -0.3


def test_what_only_one_side_has_is_listed(study: Any) -> None:
    audio = {track: data for track, data in study.usual.audio.items() if track != "t11"}
    found = difference(
        study,
        audio=audio | {"t20": b"a new track"},
        rightsholders={**study.usual.rightsholders, "t20": "south"},
        prompts=("a slow piano",),
    )
    assert (found.tracks.before, found.tracks.after) == (("t11",), ("t20",))
    assert (found.queries.before, found.queries.after) == (("demo-001",), ())
    (score,) = found.scores
    assert (score.segments_before, score.segments_after, score.segments) == (26, 26, 24)


def test_a_method_that_only_one_side_has_is_listed(study: Any) -> None:
    found = difference(study, method="mucs")
    assert found.scores[0].method_before.startswith("fim-")
    assert [m.partition("-")[0] for m in found.methods.after] == ["mucs"]
    assert found.methods.before == ()


def test_a_spec_beside_the_old_one_is_another_method(study: Any) -> None:
    found = difference(study, learning_rate=0.2)
    assert found.changed == []
    assert len(found.methods.after) == 1


def test_the_only_specs_of_a_method_are_compared_though_their_settings_differ(study: Any) -> None:
    study.make()
    add_snapshot(study.store, "before")
    fresh = type(study)(study.root.with_name("other"))  # live there: the new spec only
    fresh.make(learning_rate=0.2)
    found = compare(open_snapshot(study.store, "before"), "before", fresh.store, "after")
    assert {(s.method_before, s.method_after) for s in found.scores} == {
        (study.usual.method_id, fresh.store.partitions("attribution/scores")[0].split("|")[1])
    }
    assert [str(c) for c in found.causes] == [
        "unlearning.learning_rate 0.1 → 0.2 in unlearned/checkpoints, unlearned/losses, "
        "attribution/scores"
    ]


def test_a_rule_of_shares_changes_shares_and_not_scores(study: Any) -> None:
    found = difference(study, threshold_z=3.0)
    assert causes(found) == ["shares.threshold_z 2.0 → 3.0 in warehouse/duckdb"]
    assert {score.spearman for score in found.changed} == {1.0}


def _tables(study: Any) -> Iterator[dict[str, pl.DataFrame]]:
    for view in (open_snapshot(study.store, "before"), study.store):
        artifact = view.artifact(view.head("warehouse/duckdb").digest)
        yield {
            name: pl.read_parquet(artifact.path(f"{name}.parquet"))
            for name in ("fct_score", "dim_segment")
        }


def test_figures_are_those_of_their_definitions(study: Any, tmp_path: Path) -> None:
    found = difference(study, training_steps=9)
    before, after = _tables(study)
    old_path, new_path = tmp_path / "old.duckdb", tmp_path / "new.duckdb"
    build_database(open_snapshot(study.store, "before"), "before", old_path)
    build_database(study.store, "live", new_path)
    for score in found.scores:
        old, new = (t["fct_score"].filter(query_id=score.query_id) for t in (before, after))
        both = old.join(new, on="segment_id", suffix="_new")
        expected = spearmanr(both["score"], both["score_new"]).statistic
        assert score.spearman == pytest.approx(expected, abs=1e-12)
        assert score.query_changed  # another model generates another piece
        tops = []
        for path in (old_path, new_path):
            text = "SELECT track_id FROM v_track_share WHERE query_id = ? AND track_rank <= ?"
            tops.append(set(query(path, text, [score.query_id, TOP])["track_id"]))
        assert {place.track_id for place in score.entered} == tops[1] - tops[0]
        assert {place.track_id for place in score.left} == tops[0] - tops[1]
        for path, side in ((old_path, "before"), (new_path, "after")):
            rows = query(
                path,
                "SELECT rightsholder, share FROM v_rightsholder_share WHERE query_id = ? "
                "AND NOT is_unattributed",
                [score.query_id],
            )
            given = {s.rightsholder: getattr(s, side) for s in score.shares}
            assert {n: given[n] for n, _ in rows.iter_rows()} == dict(rows.iter_rows())
        assert sum(s.before for s in score.shares) == pytest.approx(1)
        assert sum(s.after for s in score.shares) == pytest.approx(1)


def test_scores_that_have_moved_on_since_the_warehouse_are_noted(study: Any) -> None:
    study.make()
    made = study.make(fisher_draws=2)
    old = next(
        ref
        for ref in study.store.refs()
        if ref.recipe.asset == "warehouse/duckdb" and ref != made["warehouse/duckdb"]
    )
    study.store.set_head(old)
    found = compare(study.store, "live", study.store, "live")
    assert all("older than its scores" in note for note in found.notes)
    assert len(found.notes) == 2


def test_a_state_without_a_warehouse_says_so(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with pytest.raises(HistoryError, match=r"live.*tda materialize warehouse"):
        compare(store, "live", store, "live")


def test_a_difference_has_a_json_form_and_a_printed_one(study: Any) -> None:
    found = difference(study, training_steps=9, fisher_draws=2)
    again = json.loads(json.dumps(asdict(found)))
    assert again["causes"][0]["after"] == 9
    console = Console(width=160, file=io.StringIO())
    console.print(difference_view(found))
    text = console.file.getvalue()
    assert "2 of 2 attributions differ" in text
    assert "model.training.steps 100 → 9 in base/checkpoint" in text
    assert "its own audio changed" in text
    assert f"{found.scores[0].spearman:.3f}" in text


def test_the_warehouse_of_a_snapshot_is_what_it_was(study: Any, tmp_path: Path) -> None:
    study.make()
    build_database(study.store, "live", tmp_path / "then.duckdb")
    add_snapshot(study.store, "v1")
    study.make(training_steps=9, prompts=("other", "prompts"))
    rebuilt = build_database(open_snapshot(study.store, "v1"), "v1", tmp_path / "now.duckdb")
    assert rebuilt.left_out == {}
    then, now = tmp_path / "then.duckdb", tmp_path / "now.duckdb"
    for table in ("dim_query", "v_track_share", "v_rightsholder_share", "fct_score"):
        text = f"SELECT * FROM {table} ORDER BY ALL"
        assert query(then, text).equals(query(now, text))
    lineage = query(
        now,
        "SELECT DISTINCT l.asset, a.is_live FROM v_lineage l JOIN dim_artifact a USING (recipe_key)"
        " WHERE root_asset = 'attribution/scores'",
    )
    assert lineage.height == 11
    assert lineage["is_live"].all()
    assert query(now, "SELECT * FROM v_stale_artifact").is_empty()
    assert query(now, "SELECT * FROM dim_artifact WHERE asset LIKE '%/shard'").is_empty()


def test_queries_of_before_pieces_had_windows_are_whole_pieces(study: Any, tmp_path: Path) -> None:
    made = study.make()
    old = study.store.artifact(made["warehouse/duckdb"].digest)

    def without_windows(out: Path) -> None:
        old.export(out)
        file = out / "dim_query.parquet"
        columns = ["piece_id", "window_index", "start_s", "silent"]
        pl.read_parquet(file).drop(columns).write_parquet(file)

    recipe = made["warehouse/duckdb"].recipe
    study.store.materialize(
        type(recipe)("warehouse/duckdb", code_version="0", inputs=recipe.inputs), without_windows
    )
    assert build_database(study.store, "live", tmp_path / "x.duckdb").left_out == {}
    pieces = query(tmp_path / "x.duckdb", "SELECT piece_id, windows FROM v_piece_summary")
    queries = query(tmp_path / "x.duckdb", "SELECT query_id FROM dim_query")
    assert set(pieces["piece_id"]) == set(queries["query_id"])
    assert set(pieces["windows"]) == {1}


def test_tables_of_another_time_that_no_longer_fit_are_left_out_and_named(
    study: Any, tmp_path: Path
) -> None:
    made = study.make()
    store = study.store
    old = store.artifact(made["warehouse/duckdb"].digest)

    def without(column: str, table: str) -> Any:
        def write(out: Path) -> None:
            old.export(out)
            pl.DataFrame({"segment_id": ["x"]}).write_parquet(out / "fct_loss.parquet")
            file = out / f"{table}.parquet"
            pl.read_parquet(file).drop(column).write_parquet(file)

        return write

    recipe = made["warehouse/duckdb"].recipe
    for number, (column, table) in enumerate([("family", "dim_method"), ("rank", "fct_score")]):
        store.materialize(
            type(recipe)("warehouse/duckdb", code_version=f"{number}", inputs=recipe.inputs),
            without(column, table),
        )
        with pytest.raises(HistoryError, match=f"{table}: column {column} is missing"):
            build_database(store, "live", tmp_path / "x.duckdb")
    assert not (tmp_path / "x.duckdb").exists()

    def with_old_losses(out: Path) -> None:
        old.export(out)
        pl.DataFrame({"segment_id": ["x"]}).write_parquet(out / "fct_loss.parquet")

    store.materialize(
        type(recipe)("warehouse/duckdb", code_version="3", inputs=recipe.inputs), with_old_losses
    )
    rebuilt = build_database(store, "live", tmp_path / "x.duckdb")
    assert list(rebuilt.left_out) == ["fct_loss"]
    assert rebuilt.report.rows["fct_score"] == 52
