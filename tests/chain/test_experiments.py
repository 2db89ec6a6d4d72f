"""Experiments from end to end: targets, grids, comparisons, their pages and their costs."""

import re
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from chain.conftest import Study, new_study

from warehouse.build import example_sql, query

pytestmark = pytest.mark.slow

EXPERIMENTS = {
    "self_influence": {
        "cohorts": ["targets"],
        "methods": ["fim_unlearning"],
        "settings": {"sweep.draws": 2},
        "grid": [
            {
                "unlearning.layer_group": ["cross_attention", "transformer"],
                "scoring.mask_padding": [False, True],
            }
        ],
    },
    "comparison": {
        "cohorts": ["versions"],
        "methods": [
            "fim_unlearning",
            "gradient_ascent",
            "mucs",
            "timbre",
            "melody",
            "caption",
            "lpips",
            "representer",
            "random",
        ],
        "settings": {"sweep.draws": 2},
    },
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of its own, with both experiments run."""
    made = new_study(tmp_path_factory.mktemp("experiments") / "study")
    params = yaml.safe_load((made.root / "params.yaml").read_text())
    params["experiments"] = EXPERIMENTS
    params["dataset"]["reference"]["tracks"] = 30
    params["method_settings"]["mucs"] |= {"max_steps": 3, "batch_size": 2}
    (made.root / "params.yaml").write_text(yaml.safe_dump(params))
    (made.root / "cohorts" / "targets.yaml").write_text("targets: {count: 3}\nfidelity: 3\n")
    (made.root / "cohorts" / "versions.yaml").write_text(
        "targets: {count: 2, among: versions}\nfidelity: 2\n"
    )
    made.run("tda", "experiment", "self_influence")
    made.run("tda", "experiment", "comparison")
    return made


def database(study: Study) -> Path:
    return study.root / "warehouse" / "attribution.duckdb"


def test_a_grid_is_a_cohort_of_targets_under_many_specs(study: Study) -> None:
    specs = query(
        database(study), "select * from v_experiment_spec where experiment = 'self_influence'"
    )
    assert specs.height == 4
    assert set(specs["targets"]) == {3}
    kinds = query(database(study), "select distinct kind from dim_query where cohort = 'targets'")
    assert kinds["kind"].to_list() == ["segment"]
    ranks = query(
        database(study),
        "select value from fct_evaluation where metric = 'self_influence_rank' and value < 1",
    )
    assert ranks.is_empty()


def test_specs_that_differ_in_scoring_share_checkpoints_and_sweeps(study: Study) -> None:
    sweeps = study.refs("unlearned/losses/shard")
    targets = [name for name in sweeps if name.startswith("targets")]
    shards = len(list((study.root / "data" / "store" / "refs" / "dataset").glob("latents/shard/*")))
    # Two layer groups, three queries; masks on and off take the same sweep.
    assert len(targets) == 2 * 3 * shards


def test_masks_matter_because_lengths_vary(study: Study) -> None:
    scores = query(
        database(study),
        "select m.config->>'$.scoring.mask_padding' masked, s.segment_id, s.score from fct_score s "
        "join dim_method m using (method_id) join dim_experiment e using (method_id) where "
        "e.experiment = 'self_influence' and s.query_id = 'targets-000' and "
        "(m.config->>'$.unlearning.layer_group') = 'transformer'",
    )
    wide = scores.pivot(on="masked", index="segment_id", values="score")
    padded = query(
        database(study), "select segment_id, valid_frames < frames as padded from dim_segment"
    )
    both = wide.join(padded, on="segment_id")
    differs = (both["true"] - both["false"]).abs() > 1e-12
    assert both["padded"].any()
    assert (differs == both["padded"]).all()


def test_every_method_scores_every_training_segment(study: Study) -> None:
    counts = query(
        database(study),
        "select m.method, s.query_id, count(*) n from fct_score s join dim_method m "
        "using (method_id) join dim_query q using (query_id) join dim_experiment e "
        "on e.method_id = s.method_id and e.cohort = q.cohort "
        "where e.experiment = 'comparison' group by all",
    )
    assert set(counts["method"]) == set(EXPERIMENTS["comparison"]["methods"])
    train = query(database(study), "select count(*) n from dim_segment where split = 'train'")
    assert set(counts["n"]) == {train["n"][0]}


@pytest.mark.parametrize(
    "name",
    ["spec_ranks_targets_first", "methods_agree", "methods_find_versions", "recommended_spec"],
)
def test_the_example_queries_answer(study: Study, name: str) -> None:
    assert query(database(study), example_sql(name)).height > 0


def test_fidelity_is_measured_against_chance(study: Study) -> None:
    figures = query(
        database(study),
        "select detail, metric, value from fct_evaluation where evaluation = 'generations' and "
        "metric in ('frechet_distance', 'frechet_low', 'frechet_high')",
    )
    assert set(figures["detail"]) == {"unlearned", "other seeds"}
    wide = figures.group_by("detail", "metric").agg(pl.col("value").mean())
    values = {(row[0], row[1]): row[2] for row in wide.iter_rows()}
    for detail in ("unlearned", "other seeds"):
        assert 0 <= values[detail, "frechet_low"] <= values[detail, "frechet_distance"]
        assert values[detail, "frechet_distance"] <= values[detail, "frechet_high"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_page_is_laid_out(study: Study, name: str) -> None:
    page = study.root / "data" / "report" / "experiments" / f"{name}.html"
    text = page.read_text(encoding="utf-8")
    assert "2506.18312" in text
    assert "<script" not in text


def test_the_cost_is_told_before(study: Study) -> None:
    said = study.run("tda", "experiment", "comparison", "--preflight").stdout
    assert re.search(r"all \d+ partitions are there already", said)
    params = yaml.safe_load((study.root / "params.yaml").read_text())
    more = params | {"unlearning": params["unlearning"] | {"damping": 0.7}}
    (study.root / "params.yaml").write_text(yaml.safe_dump(more))
    try:
        said = study.run("tda", "experiment", "self_influence", "--preflight").stdout
    finally:
        (study.root / "params.yaml").write_text(yaml.safe_dump(params))
    found = re.search(r"4 partitions .* 0 of them .* to do: (\d+) unlearnings and ([\d,]+)", said)
    assert found is not None, said
    assert found[1] == "6"  # three targets, two layer groups


def test_one_click_is_a_job(study: Study) -> None:
    before = study.refs("attribution/scores")
    assert before
    study.run(
        "dagster", "job", "execute", "-j", "experiment_self_influence",
        "-m", "tda_dagster.definitions",
    )  # fmt: skip
    assert study.refs("attribution/scores") == before


def test_an_unknown_experiment_is_named(study: Study) -> None:
    told = study.run("tda", "experiment", "nothing", check=False)
    assert told.returncode == 1
    assert "there is no experiment 'nothing'" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_method_without_its_embedding_says_what_to_set(study: Study) -> None:
    params = yaml.safe_load((study.root / "params.yaml").read_text())
    changed = params | {"methods": ["clap"]}
    (study.root / "params.yaml").write_text(yaml.safe_dump(changed))
    try:
        told = study.run("tda", "run", check=False)
    finally:
        (study.root / "params.yaml").write_text(yaml.safe_dump(params))
    assert told.returncode == 1
    assert "embeddings.clap" in told.stderr
    assert sys.executable not in told.stderr
