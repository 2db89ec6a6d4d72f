"""The pages of experiments: what is known is there, what is not is left out, nothing else."""

import json
import re
from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tda_dagster.report import figures
from tda_dagster.report.experiment import (
    Chart,
    ExperimentReport,
    Part,
    Table,
    read_experiment,
    render_experiment,
)
from warehouse.build import build

HOSTILE = "<script>alert(1)</script>"
FORBIDDEN = re.compile(r"<script|https?://|@import|javascript:", re.IGNORECASE)


def page(*parts: Part) -> str:
    return render_experiment(ExperimentReport("grid", "What happens?", parts))


def test_parts_tables_and_charts_are_laid_out_in_order() -> None:
    table = Table("a caption", ("spec", "rank"), (("one", "1.0"), ("two", None)), marked=(1,))
    chart = Chart(
        "a chart",
        "its words",
        lambda look: figures.matrix(np.eye(2), ["a", "b"], ["c", "d"], look=look),
    )
    text = page(Part("First", ("A paragraph.",), (table,), (chart,)), Part("Second", ()))
    assert text.index("First") < text.index("A paragraph.") < text.index("a caption")
    assert text.index("a caption") < text.index("a chart") < text.rindex("Second")
    assert text.count("data:image/png;base64,") == 2  # light and dark
    assert 'class="marked"' in text
    assert "not known here" in text
    assert 'alt="its words"' in text


def test_texts_are_never_interpreted_and_nothing_is_fetched() -> None:
    part = Part(HOSTILE, (HOSTILE,), (Table(HOSTILE, (HOSTILE,), ((HOSTILE,),)),))
    text = page(part)
    assert FORBIDDEN.search(text) is None
    assert "&lt;script&gt;" in text
    assert "default-src 'none'" in text


def test_the_same_report_gives_the_same_page() -> None:
    chart = Chart("c", "a", lambda look: figures.histogram(np.arange(9.0), "x", look=look))
    assert page(Part("p", (), charts=(chart,))) == page(Part("p", (), charts=(chart,)))


def database(
    folder: Path,
    methods: dict[str, dict[str, object]],
    kind: str,
    *,
    without: Container[str] = (),
    fixed: Mapping[tuple[str, str], float] | None = None,
) -> Path:
    """A warehouse of one experiment on four queries, with figures and scores made up: none of the
    metrics `without`, and the values `fixed` by method and metric."""
    rng = np.random.default_rng(2)
    columns = ("title", "artist", "rightsholder", "composer", "collection", "key", "instruments")
    text = dict.fromkeys((*columns, "caption", "licence", "audio"), "x")
    tracks = [
        {"track_id": f"t{i:02d}", "tempo_bpm": 90.0, "version_of": "t00" if i == 1 else None,
         "version_kind": "transposed" if i == 1 else None, "split": "train",
         "audio_sha256": f"{i:064d}", "sample_rate_hz": 16000, "channels": 1,
         "duration_s": 5.0, **text}
        for i in range(12)
    ]  # fmt: skip
    segments = [
        {"segment_id": f"t{i:02d}:0", "track_id": f"t{i:02d}", "segment_index": 0, "start_s": 0.0,
         "seconds_total": 5.0, "samples": 9, "valid_samples": 9, "frames": 9,
         "valid_frames": 9 - i % 2, "split": "train", "segment_sha256": "0" * 64}
        for i in range(12)
    ]  # fmt: skip
    queries = [
        {"query_id": f"c-{i:03d}", "cohort": "c", "query_index": i, "kind": kind, "prompt": HOSTILE,
         "negative_prompt": "", "seed": None, "guidance_scale": None, "inference_steps": None,
         "segment_id": f"t{i:02d}:0" if kind == "segment" else None, "source": None,
         "seconds": 5.0, "frames": 9, "valid_frames": 9, "audio_sha256": "0" * 64,
         "piece_id": f"c-{i:03d}", "window_index": 0, "start_s": 0.0, "silent": False}
        for i in range(4)
    ]  # fmt: skip
    unlearns = {m: c for m, c in methods.items() if "unlearning" in c}
    metrics = ["topk_similarity", "bottomk_similarity", "gini", "top_1pct_share"]
    figures_ = [
        (
            "attribution",
            q["query_id"],
            m,
            metric,
            (fixed or {}).get((m, metric), rng.random()),
            detail,
        )
        for q in queries
        for m in methods
        for metric in (
            *metrics,
            *(["query_loss_rise", "heldout_loss_rise"] if m in unlearns else []),
            *(["self_influence_rank"] if kind == "segment" else []),
        )
        if metric not in without
        for detail in (["timbre"] if "similarity" in metric else [""])
    ]
    figures_ += [
        ("generations", "c", m, metric, value, detail)
        for m in unlearns
        for detail in ("unlearned", "other seeds")
        for metric, value in (
            ("frechet_low", 1.0), ("frechet_distance", 2.0), ("frechet_high", 3.0), ("pieces", 48.0)
        )
    ]  # fmt: skip
    names = ("evaluation", "subject", "method_id", "metric", "value", "detail")
    scores = [
        {"query_id": q["query_id"], "method_id": m, "segment_id": s["segment_id"],
         "score": float(rng.normal()), "score_se": None, "rank": 1}
        for q in queries for m in methods for s in segments
    ]  # fmt: skip
    build(
        folder / "w.duckdb",
        {
            "dim_track": pl.DataFrame(tracks, infer_schema_length=None),
            "dim_segment": pl.DataFrame(segments),
            "dim_query": pl.DataFrame(queries, infer_schema_length=None),
            "dim_method": pl.DataFrame(
                [
                    {"method_id": m, "method": c["method"], "label": f"{c['method']} {HOSTILE}",
                     "family": "unlearning" if m in unlearns else "similarity",
                     "config": json.dumps(c)}
                    for m, c in methods.items()
                ]
            ),
            "dim_experiment": pl.DataFrame(
                [{"experiment": "e", "cohort": "c", "method_id": m} for m in methods]
            ),
            "fct_evaluation": pl.DataFrame(
                [dict(zip(names, f, strict=True), unit="", direction="none") for f in figures_]
            ),
            "fct_score": pl.DataFrame(scores, schema_overrides={"score_se": pl.Float64}),
            "share_rule": pl.DataFrame(
                {
                    "threshold_z": [2.0],
                    "null_excess": [0.0085],
                    "min_reliability": [0.0],
                    "min_prominence": [0.0],
                }
            ),
        },
    )  # fmt: skip
    return folder / "w.duckdb"


def spec(method: str, **unlearning: object) -> dict[str, object]:
    defaults = {"layer_group": "transformer", "mask_padding": True, "learning_rate": 1e-3,
                "steps": 1, "damping": 0.1}  # fmt: skip
    return {
        "method": method,
        "unlearning": defaults | unlearning,
        "scoring": {"mask_padding": False, "score": "difference"},
    }


def test_a_grid_shows_specs_recommendation_fidelity_and_the_paper(tmp_path: Path) -> None:
    methods = {
        "a": spec("fim_unlearning"),
        "b": spec("fim_unlearning", layer_group="cross_attention"),
        "c": spec("fim_unlearning", damping=1.0),
    }
    report = read_experiment(database(tmp_path, methods, "segment"), "e")
    titles = [part.title for part in report.parts]
    assert titles == [
        "What was run",
        "The grid",
        "Recommended",
        "Self-influence ranks",
        "What unlearning did to the model's music",
        "Beside the paper",
    ]
    (table,) = report.parts[1].tables
    assert len(table.rows) == 3
    assert len(table.marked) == 1
    (paper,) = report.parts[-1].tables
    theirs = {row[0]: row[2] for row in paper.rows}
    assert theirs["cross attention kv"] == "103.2"
    text = render_experiment(report)
    assert FORBIDDEN.search(text) is None
    assert "6615.7" in text


def test_a_comparison_shows_agreement_concentration_versions_and_forgetting(
    tmp_path: Path,
) -> None:
    methods = {
        "a": spec("fim_unlearning"),
        "b": spec("gradient_ascent"),
        "c": {"method": "timbre"},
        "d": {"method": "lpips"},
    }
    report = read_experiment(database(tmp_path, methods, "segment"), "e")
    titles = [part.title for part in report.parts]
    assert "Who agrees: c" in titles
    assert "How concentrated, and always the same tracks?" in titles
    assert "Which methods find versions?" in titles
    assert "The grid" not in titles
    forgetting = next(p for p in report.parts if p.title == "What else is forgotten")
    assert "Gradient ascent without Fisher information" in forgetting.paragraphs[0]
    assert re.search(r"damages more for \d of 4 queries", forgetting.paragraphs[0])
    assert [row[0] for row in forgetting.tables[0].rows] == ["fim unlearning", "gradient ascent"]
    assert FORBIDDEN.search(render_experiment(report)) is None


def test_generated_pieces_are_set_beside_the_paper_s(tmp_path: Path) -> None:
    methods = {"a": spec("fim_unlearning"), "c": {"method": "timbre"}}
    report = read_experiment(database(tmp_path, methods, "generated"), "e")
    (table,) = report.parts[-1].tables
    rows = {row[1]: row for row in table.rows}
    assert rows["timbre"][2] == "0.46"
    assert rows["timbre"][3] is not None
    assert rows["melody"][3] is None  # it was not run
    titles = [part.title for part in report.parts]
    assert "Which methods find versions?" not in titles


def test_the_paper_s_grid_has_its_figures_beside_ours(tmp_path: Path) -> None:
    methods = {"a": spec("fim_unlearning"), "b": spec("fim_unlearning", layer_group="feed_forward")}
    fixed = {("a", "self_influence_rank"): 3.0, ("a", "bottomk_similarity"): -0.001}
    report = read_experiment(database(tmp_path, methods, "segment", fixed=fixed), "e")
    (table,) = report.parts[-1].tables
    rows = {row[:2]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    masked = rows["transformer", "M_U"]
    assert (masked["R, paper"], masked["R, here"]) == ("1.0", "3.0")
    assert (masked["top, paper"], masked["bottom, paper"]) == ("0.66", "0.26")
    assert masked["bottom, here"] == "0.00"
    assert rows["transformer", "none"]["R, paper"] == "6615.7"
    # What we did not run is not made up.
    assert rows["self attention", "M_U"]["R, here"] is None
    text = " ".join(report.parts[-1].paragraphs)
    assert "quoted from a published note" in text
    assert "115,000 tracks there and among 12 segments here" in text


def test_the_paper_s_own_method_comes_before_its_stand_in(tmp_path: Path) -> None:
    methods = {
        "a": spec("fim_unlearning"),
        "b": {"method": "timbre"},
        "c": {"method": "clap"},
    }
    report = read_experiment(database(tmp_path, methods, "generated"), "e")
    (table,) = report.parts[-1].tables
    rows = {row[0]: row for row in table.rows}
    assert rows["CLAP similarity"][1] == "clap"
    assert rows["CLAP similarity"][4] is None  # the paper's Spearman correlation
    assert "as timbre does for CLAP" not in " ".join(report.parts[-1].paragraphs)


def test_without_generated_pieces_the_paper_s_figures_stand_alone(tmp_path: Path) -> None:
    methods = {"a": spec("fim_unlearning"), "b": {"method": "timbre"}}
    report = read_experiment(database(tmp_path, methods, "segment"), "e")
    (table,) = report.parts[-1].tables
    assert [row[2] for row in table.rows] == ["0.56", "0.46", "0.32", "0.11"]
    assert {row[3] for row in table.rows} == {None}


@pytest.mark.parametrize(
    "without",
    [("heldout_loss_rise", "query_loss_rise"), ("topk_similarity", "bottomk_similarity")],
)
def test_a_grid_without_some_figures_says_so(tmp_path: Path, without: tuple[str, ...]) -> None:
    methods = {"a": spec("fim_unlearning"), "b": spec("fim_unlearning", damping=1.0)}
    path = database(tmp_path, methods, "segment", without=without)
    assert "not known here" in render_experiment(read_experiment(path, "e"))


@pytest.mark.parametrize(
    ("plain", "verdict"),
    [(0.06, ": 3.0 times the damage."), (0.01, ": 0.5 times the damage."),
     (-0.01, "−0.01000 on average, FIM unlearning by 0.02000: no more damage.")],
)  # fmt: skip
def test_the_damage_of_plain_ascent_is_said_from_the_figures(
    tmp_path: Path, plain: float, verdict: str
) -> None:
    methods = {"a": spec("fim_unlearning"), "b": spec("gradient_ascent")}
    fixed = {
        ("a", "heldout_loss_rise"): 0.02,
        ("b", "heldout_loss_rise"): plain,
        ("a", "query_loss_rise"): 0.5,
        ("b", "query_loss_rise"): 0.625,
    }
    report = read_experiment(database(tmp_path, methods, "generated", fixed=fixed), "e")
    (text,) = next(p for p in report.parts if p.title == "What else is forgotten").paragraphs
    assert verdict in text
    assert "(measured: 0.6250 and 0.5000)" in text
    assert f"damages more for {4 if plain > 0.02 else 0} of 4 queries" in text


@pytest.mark.parametrize("centred", [False, True])
def test_a_matrix_may_have_unknown_cells_or_be_constant(centred: bool) -> None:
    for values in (np.array([[1.0, np.nan]]), np.full((2, 2), np.nan), np.zeros((1, 1))):
        names = [str(i) for i in range(max(values.shape))]
        png = figures.matrix(values, names[: len(values)], names[: values.shape[1]],
                             centred=centred)  # fmt: skip
        assert png.startswith(b"\x89PNG")


def test_scatter_and_intervals_are_drawn_in_every_look() -> None:
    points = {"one": (np.array([1.0, -1.0]), np.array([2.0, 2.0]))}
    for look in (figures.SCREEN, figures.LIGHT_PAGE, figures.DARK_PAGE):
        assert figures.scatter(points, "x", "y", look=look).startswith(b"\x89PNG")
        png = figures.intervals(["a"], [1.0], [(0.5, 2.0)], "d", band=(1.0, 2.0), look=look)
        assert png.startswith(b"\x89PNG")
