"""The bench from end to end on a tiny study: retraining, left-out tracks, the verdict."""

import json
import math
import re

import numpy as np
import polars as pl
import pytest
import yaml
from chain.conftest import QUERIES, Study, new_study

from tda_dagster.attribution.scoring import robust_z
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.evaluation.ground_truth import GroundTruth, removed_digest
from tda_dagster.store import canonical_json, digest_of
from tda_dagster.workspace import Workspace
from warehouse.build import query

pytestmark = pytest.mark.slow

METHODS = ["fim_unlearning", "timbre", "random"]
SUBSETS, REPEATS, DRAWS, REMOVED, COALITIONS = 3, 2, 4, [1, 2], 4


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = new_study(tmp_path_factory.mktemp("bench") / "study")
    params = yaml.safe_load((made.root / "params.yaml").read_text())
    params["dataset"]["reference"] |= {"tracks": 18, "planted": 3}
    params["model"]["training"]["steps"] = 20
    params["counterfactual"] |= {
        "subsets": SUBSETS,
        "repeats": REPEATS,
        "draws": DRAWS,
        "removed_tracks": REMOVED,
        "coalitions": COALITIONS,
        "coalition_repeats": REPEATS,
        "stored": False,
    }
    params["experiments"] = {"bench": {"cohorts": ["reference", "planted"], "methods": METHODS}}
    (made.root / "params.yaml").write_text(yaml.safe_dump(params))
    (made.root / "cohorts" / "reference.yaml").write_text(f"draws_by: id\n{QUERIES}")
    (made.root / "cohorts" / "planted.yaml").write_text("targets: {count: 3, among: planted}\n")
    made.run("tda", "bench", "attribution", "--removal", "--study", str(made.root))
    return made


def live(study: Study, asset: str, partition: str, file: str) -> pl.DataFrame:
    store = Workspace(study.root).store
    head = store.head(asset, partition)
    assert head is not None
    return pl.read_parquet(store.artifact(head.digest).path(file))


def test_a_cohort_may_key_draws_by_id(study: Study) -> None:
    store = Workspace(study.root).store
    for cohort, is_keyed in (("reference", False), ("planted", True)):
        head = store.head("cohort/queries", cohort)
        assert head is not None
        queries = store.artifact(head.digest)
        latents = LatentSegments.load(queries.path(f"latents/{cohort}-000.safetensors"))
        assert bool(latents.draw_keys) == is_keyed


def partitions(study: Study, asset: str) -> list[str]:
    return list(Workspace(study.root).store.partitions(asset))


def test_every_method_is_held_against_what_retraining_showed(study: Study) -> None:
    rows = query(study.root / "warehouse" / "attribution.duckdb", "SELECT * FROM v_bench")
    assert sorted(rows["method"]) == sorted(METHODS)
    assert rows["lds"].is_between(-1, 1).all()
    assert (rows["lds_low"] <= rows["lds"]).all()
    assert (rows["lds"] <= rows["lds_high"]).all()
    shown = ("planted_copy", "planted_version", "planted_mix", "rise", "similar_timbre")
    assert rows.select(shown).null_count().sum_horizontal().item() == 0


def test_losses_are_those_of_every_query_under_every_training(study: Study) -> None:
    losses = live(study, "counterfactual/losses", "reference", "losses.parquet")
    assert losses.height == SUBSETS * REPEATS * 2 * DRAWS
    per_training = losses.group_by("subset", "repeat").agg(pl.col("loss").sum())
    assert per_training["loss"].n_unique() == SUBSETS * REPEATS


def test_every_query_has_a_loss_under_every_coalition(study: Study) -> None:
    losses = live(study, "counterfactual/coalitions", "reference", "losses.parquet")
    members = live(study, "counterfactual/coalitions", "reference", "coalitions.parquet")
    catalogues = live(study, "counterfactual/coalitions", "reference", "catalogues.parquet")
    assert set(catalogues["catalogues"]) == {"rightsholder", "unequal"}
    trained = members.select("catalogues", "coalition").unique().height
    assert losses.height == trained * REPEATS * 2
    assert losses["loss"].is_finite().all()


def test_a_coalition_is_trained_on_exactly_the_tracks_of_its_parties(study: Study) -> None:
    members = live(study, "counterfactual/coalitions", "reference", "coalitions.parquet")
    catalogues = live(study, "counterfactual/coalitions", "reference", "catalogues.parquet")
    trained_on = {
        ref["recipe"]["config"]["tracks"]  # type: ignore[index]
        for ref in study.refs("counterfactual/coalitions/shard").values()
    }
    tracks = members.join(catalogues, on=["catalogues", "party"])
    wanted = {
        digest_of(canonical_json(sorted(part["track_id"])))
        for part in tracks.partition_by("catalogues", "coalition")
    }
    assert wanted == trained_on


def test_payout_errors_are_those_of_the_payouts_in_the_warehouse(study: Study) -> None:
    """By the definition, from the warehouse's payouts and the losses under coalitions."""
    database = study.root / "warehouse" / "attribution.duckdb"
    losses = live(study, "counterfactual/coalitions", "reference", "losses.parquet")
    members = live(study, "counterfactual/coalitions", "reference", "coalitions.parquet").filter(
        catalogues="rightsholder"
    )
    parties = sorted(set(members["party"]))
    means = (
        losses.filter(catalogues="rightsholder")
        # All tracks from the base model's seed: the base model, whose pieces the queries are.
        .filter((pl.col("coalition") > 0) | (pl.col("repeat") > 0))
        .group_by("query_id", "coalition")
        .agg(pl.col("loss").mean())
        .sort("query_id", "coalition")
    )
    present = [
        [1.0, *(float(p in set(part["party"])) for p in parties)]
        for part in members.partition_by("coalition", maintain_order=True)
    ]
    found = query(
        database,
        "select subject, method_id, value from fct_evaluation "
        "where metric = 'payout_error' and detail = 'rightsholder'",
    )
    per_query = {(row[0], row[1]): row[2] for row in found.iter_rows()}
    for part in means.partition_by("query_id"):
        solved, *_ = np.linalg.lstsq(np.array(present), -part["loss"].to_numpy(), rcond=None)
        truth = np.maximum(solved[1:], 0)
        truth /= truth.sum()
        paid = query(
            database,
            "select method_id, rightsholder, payout from v_rightsholder_share "
            "where query_id = ? and not is_unattributed",
            [part["query_id"][0]],
        )
        for (method,), own in paid.group_by("method_id"):
            payouts = dict(own.select("rightsholder", "payout").iter_rows())
            assert set(payouts) == set(parties)
            error = sum(abs(payouts[p] - t) for p, t in zip(parties, truth, strict=True)) / 2
            assert per_query[part["query_id"][0], method] == pytest.approx(error)


def test_exactly_the_most_attributed_tracks_are_left_out_and_all_others_trained_on(
    study: Study,
) -> None:
    index = live(study, "dataset/index", "", "segments.parquet").filter(split="train")
    trained_on = {
        ref["recipe"]["config"]["tracks"]  # type: ignore[index]
        for ref in study.refs("counterfactual/removal/shard").values()
    }
    for partition in partitions(study, "counterfactual/removal"):
        removed = live(study, "counterfactual/removal", partition, "removed.parquet")
        scores = live(study, "attribution/scores", partition, "scores.parquet")
        for name in removed["query_id"].unique():
            own = scores.filter(query_id=name).join(index, on="segment_id")
            z = robust_z(own["score"].to_numpy())
            of_track: dict[str, tuple[float, float]] = {}
            for track, score, standing in zip(own["track_id"], own["score"], z, strict=True):
                evidence, best_score = of_track.get(track, (0.0, -math.inf))
                of_track[track] = (evidence + max(0, standing - 2), max(best_score, score))
            best = sorted(of_track, key=lambda track: of_track[track], reverse=True)
            assert sorted(removed.filter(query_id=name)["tracks"].unique()) == REMOVED
            for size in REMOVED:
                left_out = removed.filter(query_id=name, tracks=size).sort("place")["track_id"]
                assert left_out.to_list() == best[:size]
                kept = sorted(set(of_track) - set(best[:size]))
                assert digest_of(canonical_json(kept)) in trained_on


def test_every_number_of_left_out_tracks_has_its_figures(study: Study) -> None:
    database = study.root / "warehouse" / "attribution.duckdb"
    rows = query(database, "SELECT * FROM v_removal ORDER BY method_id, removed_tracks")
    assert rows["removed_tracks"].to_list() == REMOVED * len(METHODS)
    assert rows["queries"].to_list() == [2] * rows.height
    bench = query(database, "SELECT method_id, rise FROM v_bench ORDER BY method_id")
    assert bench["rise"].to_list() == rows.filter(removed_tracks=2)["rise"].to_list()
    for partition in partitions(study, "counterfactual/removal"):
        losses = live(study, "counterfactual/removal", partition, "losses.parquet")
        removed = live(study, "counterfactual/removal", partition, "removed.parquet")
        assert losses.height == 2 * len(REMOVED) * DRAWS
        for size in REMOVED:
            sets = removed.filter(tracks=size)["removed"].unique()
            rises = [
                (own["loss"].mean() - own["loss_base"].mean()) / own["loss_base"].mean()  # type: ignore[operator]
                for _, own in losses.filter(pl.col("removed").is_in(sets.implode())).group_by(
                    "query_id"
                )
            ]
            found = rows.filter(method_id=partition.partition("|")[2], removed_tracks=size)
            assert found["rise"].item() == pytest.approx(sum(rises) / len(rises))


def test_the_verdict_is_printed_and_nothing_is_trained_twice(study: Study) -> None:
    before = study.refs("counterfactual")
    done = study.run("tda", "bench", "attribution", "--removal", "--study", str(study.root))
    for label in ("timbre", "random", "FIM unlearning"):
        assert re.search(rf"{label}.* -?0\.\d+ .* to ", done.stdout), done.stdout
    assert study.refs("counterfactual") == before


def test_what_was_found_can_be_kept_as_ground_truth(study: Study) -> None:
    folder = study.root / "kept"
    study.run("tda", "bench", "ground-truth", str(folder), "--study", str(study.root))
    kept = GroundTruth.load(folder / "reference")
    losses = live(study, "counterfactual/losses", "reference", "losses.parquet")
    assert kept.tables["losses"].equals(losses)
    coalitions = live(study, "counterfactual/coalitions", "reference", "coalitions.parquet")
    assert kept.tables["coalitions"].equals(coalitions)
    for partition in partitions(study, "counterfactual/removal"):
        removed = live(study, "counterfactual/removal", partition, "removed.parquet")
        stored = kept.tables["removal_losses"]
        for (name, _), tracks in removed.group_by("query_id", "tracks"):
            digest = removed_digest(tracks["track_id"].to_list())
            assert stored.filter(query_id=name, removed=digest).height == DRAWS
    about = json.loads((folder / "reference" / "about.json").read_text())
    assert [row[0] for row in about["queries"]] == ["reference-000", "reference-001"]
    assert kept.fits(about, kept.queries)
    assert not kept.fits(about | {"tracks": "others"}, kept.queries)
