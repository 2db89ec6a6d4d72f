"""The verdict page: says who wins and who does not, from the figures of the warehouse alone."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from scipy import stats

from tda_dagster.report import bench
from tda_dagster.report.bench.departures import paired
from tda_dagster.report.bench.page import SECTIONS
from tda_dagster.report.bench.verdict import headline
from tda_dagster.summary import print_bench
from tda_dagster.workspace import Workspace
from warehouse.build import build, query

HOSTILE = "<script>alert(1)</script>"
FORBIDDEN = re.compile(r"<script|https?://|@import|javascript:", re.IGNORECASE)
QUERIES, TRACKS, RESAMPLES = 8, 24, 41


@dataclass(frozen=True)
class Spec:
    """A method spec of a made-up bench. An LDS is (value, low, high); `confirming` queries gain by
    so much over the choosing ones; with `chance` its scores have that standard error; `payout` is
    the payout error with its interval, beside 0.3 for paying pro rata."""

    method: str
    evidence: tuple[float, float, float] = (0.2, 0.1, 0.3)
    raw: tuple[float, float, float] = (0.1, 0.0, 0.2)
    family: str = "gradient"
    experiment: str = "bench"
    config: Mapping[str, object] = field(default_factory=dict)
    settings: str = ""
    choosing: float | None = None
    by_query: Sequence[float] | None = None
    chance: float | None = None
    payout: tuple[float, float, float] | None = None

    @property
    def method_id(self) -> str:
        suffix = self.settings.replace(" ", "-") or "default"
        return f"{self.method.replace('_', '-')}-{suffix}"

    @property
    def label(self) -> str:
        name = {"fim_unlearning": "FIM unlearning"}.get(self.method, self.method.replace("_", " "))
        return f"{name}, {self.settings}" if self.settings else name

    def figures(self) -> list[tuple[str, str, float, str]]:
        """Subject, metric, value, detail."""
        found = [("c", "noise_ceiling", 0.8, "")]
        for metric, (value, low, high) in (("evidence_lds", self.evidence), ("lds", self.raw)):
            chosen = value if self.choosing is None else self.choosing
            for detail, middle in (("", value), ("choosing", chosen), ("confirming", value - 0.05)):
                found += [
                    ("c", metric, middle, detail),
                    ("c", f"{metric}_low", middle - (value - low), detail),
                    ("c", f"{metric}_high", middle + (high - value), detail),
                ]
            own = self.by_query or [value + 0.03 * (i % 3 - 1) for i in range(QUERIES)]
            for i, each in enumerate(own):
                half = "choosing" if i < QUERIES // 2 else "confirming"
                found += [(f"c-{i:03d}", metric, each, detail) for detail in ("", half)]
        return found

    def payouts(self) -> list[tuple[str, str, float, str]]:
        """The figures of payouts: subject, metric, value, detail."""
        if self.payout is None:
            return []
        error, low, high = self.payout
        found = [
            ("c", "payout_support", 0.5, ""),
            ("c", "truth_exact_error", 0.05, "rightsholder"),
            ("c", "truth_halves_correlation", 0.81, "rightsholder"),
            ("c", "truth_seeds_correlation", 0.77, "rightsholder"),
        ]
        for detail, worse in (("rightsholder", 0.0), ("rightsholder, confirming", 0.02)):
            found += [
                ("c", "payout_error", error + worse, detail),
                ("c", "payout_error_low", low + worse, detail),
                ("c", "payout_error_high", high + worse, detail),
                ("c", "payout_error_pro_rata", 0.3, detail),
                ("c", "payout_error_equal", 0.4, detail),
                ("c", "payout_error_power", 0.35, detail),
                ("c", "payout_difference", error + worse - 0.3, detail),
                ("c", "payout_difference_low", low + worse - 0.3, detail),
                ("c", "payout_difference_high", high + worse - 0.3, detail),
                ("c", "payout_rank_correlation", 0.6, detail),
            ]
        return found

    def resamples(self) -> list[tuple[str, str, int, float]]:
        """Metric, detail, number, value: 95 of 100 are in the interval. Those of FIM unlearning
        fall where those of the others rise, so that a difference from it may be none exactly where
        the two intervals overlap."""
        places = (np.arange(RESAMPLES) / (RESAMPLES - 1) - 0.025) / 0.95
        if self.method == "fim_unlearning":
            places = places[::-1]
        return [
            (metric, detail, number, low + place * (high - low) - below)
            for metric, (_, low, high) in (("evidence_lds", self.evidence), ("lds", self.raw))
            for detail, below in (("", 0.0), ("confirming", 0.05))
            for number, place in enumerate(places)
        ]


FIM = Spec("fim_unlearning", (0.5, 0.4, 0.6), family="unlearning", chance=0.3)


def database(
    folder: Path,
    specs: Sequence[Spec],
    *,
    full: bool = False,
    min_reliability: float = 0.0,
    min_prominence: float = 0.0,
    outdated: Sequence[str] = (),
    halved: bool = True,
) -> Path:
    """A warehouse of a bench; a `full` one knows costs, left-out tracks and planted excerpts, too.
    Of the `outdated` specs there is no evidence; one that is not `halved` has nothing to choose and
    to confirm on."""
    rng = np.random.default_rng(5)
    columns = ("title", "artist", "rightsholder", "composer", "collection", "key", "instruments")
    text = dict.fromkeys((*columns, "caption", "licence", "audio"), "x")
    tracks = [
        {"track_id": f"t{i:02d}", "tempo_bpm": 90.0, "version_of": "t00" if i == 1 else None,
         "version_kind": "copy" if i == 1 else None, "split": "train" if i else "heldout",
         "audio_sha256": f"{i:064d}", "sample_rate_hz": 16000, "channels": 1,
         "duration_s": 5.0, **text}
        for i in range(TRACKS)
    ]  # fmt: skip
    segments = [
        {"segment_id": f"t{i:02d}:0", "track_id": f"t{i:02d}", "segment_index": 0, "start_s": 0.0,
         "seconds_total": 5.0, "samples": 9, "valid_samples": 9, "frames": 9, "valid_frames": 9,
         "split": "train" if i else "heldout", "segment_sha256": "0" * 64}
        for i in range(TRACKS)
    ]  # fmt: skip
    queries = [
        {"query_id": f"{c}-{i:03d}", "cohort": c, "query_index": i,
         "kind": "segment" if c == "p" else "generated", "prompt": f"{HOSTILE} {i}",
         "negative_prompt": "", "seed": None, "guidance_scale": None, "inference_steps": None,
         "segment_id": "t00:0" if c == "p" else None, "source": None,
         "seconds": 5.0, "frames": 9, "valid_frames": 9, "audio_sha256": "0" * 64,
         "piece_id": f"{c}-{i:03d}", "window_index": 0, "start_s": 0.0, "silent": False}
        for c, count in (("c", QUERIES), ("p", int(full))) for i in range(count)
    ]  # fmt: skip
    figures = [
        ("datamodel", spec.method_id, *figure)
        for spec in specs
        for figure in spec.figures()
        if not (spec.method_id in outdated and figure[1].startswith("evidence"))
        if halved or not figure[3]
    ]
    figures += [("payout", spec.method_id, *figure) for spec in specs for figure in spec.payouts()]
    figures += [
        ("attribution", spec.method_id, f"c-{i:03d}", "interval_coverage", 0.9 + i / 100, "halves")
        for spec in specs
        if spec.family == "unlearning"
        for i in range(QUERIES)
    ]
    if full:
        figures += [
            ("removal", spec.method_id, f"c-{i:03d}", metric, float(rng.random()) / 20, detail)
            for spec in specs
            for i in range(QUERIES)
            for metric, detail in (
                ("relative_loss_rise", ""),
                ("regenerated_similarity", "timbre"),
                ("regenerated_similarity", "melody"),
            )
        ]
    names = ("evaluation", "method_id", "subject", "metric", "value", "detail")
    scores = []
    for asked in queries:
        for spec in specs:
            values = rng.normal(size=TRACKS) * rng.uniform(0.3, 2.0)
            places = (-values).argsort().argsort() + 1
            scores += [
                {"query_id": asked["query_id"], "method_id": spec.method_id,
                 "segment_id": segment["segment_id"], "score": float(value),
                 "score_se": spec.chance, "rank": int(place)}
                for segment, value, place in zip(segments, values, places, strict=True)
            ]  # fmt: skip
    made = [("counterfactual/losses", "c", 900.0, 1000)]
    made += [
        ("attribution/scores", f"c|{spec.method_id}", 10.0 * (1 + place), 1_000_000)
        for place, spec in enumerate(specs)
    ]
    config = {
        "counterfactual": {"subsets": 4, "fraction": 0.5, "repeats": 2, "draws": 8,
                           "removed_tracks": 3, "removal_queries": 8},
        "model": {"training": {"steps": 100}},
    }  # fmt: skip
    artifacts = [
        {"recipe_key": f"{place:064d}", "artifact_digest": "0" * 64, "asset": asset,
         "partition": partition, "code_version": "1", "config": json.dumps(config),
         "config_digest": "0" * 64, "size_bytes": size, "seconds": seconds, "device": "cpu",
         "run_id": "r", "created_at": "2026-01-01", "is_live": True}
        for place, (asset, partition, seconds, size) in enumerate(made)
    ]  # fmt: skip
    build(
        folder / "w.duckdb",
        {
            "dim_track": pl.DataFrame(tracks, infer_schema_length=None),
            "dim_segment": pl.DataFrame(segments),
            "dim_query": pl.DataFrame(queries, infer_schema_length=None),
            "dim_method": pl.DataFrame(
                [
                    {"method_id": spec.method_id, "method": spec.method, "label": spec.label,
                     "family": spec.family,
                     "config": json.dumps({"method": spec.method, **spec.config})}
                    for spec in specs
                ]
            ),
            "dim_experiment": pl.DataFrame(
                [
                    {"experiment": spec.experiment, "cohort": "c", "method_id": spec.method_id}
                    for spec in specs
                ]
            ),
            "fct_evaluation": pl.DataFrame(
                [dict(zip(names, f, strict=True), unit="", direction="none") for f in figures]
            ),
            "fct_resample": pl.DataFrame(
                [
                    {"cohort": "c", "method_id": spec.method_id, "metric": metric,
                     "detail": detail, "resample": number, "value": value}
                    for spec in specs
                    if spec.method_id not in outdated
                    for metric, detail, number, value in spec.resamples()
                    if halved or not detail
                ]
            ),
            "fct_score": pl.DataFrame(
                scores, schema_overrides={"score_se": pl.Float64}, infer_schema_length=None
            ),
            "share_rule": pl.DataFrame(
                {"threshold_z": [2.0], "null_excess": [0.0085],
                 "min_reliability": [min_reliability], "min_prominence": [min_prominence]}
            ),
            **({"dim_artifact": pl.DataFrame(artifacts)} if full else {}),
        },
    )  # fmt: skip
    return folder / "w.duckdb"


def cohort(path: Path) -> bench.Cohort:
    (found,) = bench.read_bench(path).cohorts
    return found


def section(found: bench.Cohort, title: str) -> str:
    """A section as the page has it, without tags."""
    page = bench.render_bench(bench.BenchReport((found,)))
    (part,) = re.findall(rf"<h2[^>]*>{title}</h2>(.*?)</section>", page, re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", part).split())


def titles(found: bench.Cohort) -> list[str]:
    return [made.title for make in SECTIONS if (made := make(found))]


def test_unlearning_wins_where_it_is_better_than_all_by_more_than_chance(
    tmp_path: Path,
) -> None:
    rival = Spec("kernel_influence", (0.3, 0.2, 0.39), raw=(0.6, 0.5, 0.7))
    by_evidence, by_scores = headline(cohort(database(tmp_path, [rival, FIM])))
    assert by_evidence == (
        "FIM unlearning wins: its LDS of evidence is the highest of 2 methods, 0.50 (95 % interval "
        "0.40 to 0.60), and above every other by more than chance."
    )
    # By raw scores it is the other way round, and that is said, too.
    assert by_scores == (
        "By raw scores, FIM unlearning does not win: the highest LDS of raw scores of 2 methods is "
        "that of kernel influence, 0.60 (95 % interval 0.50 to 0.70), to which it loses with 0.10 "
        "(95 % interval 0.00 to 0.20), a difference of +0.500 (0.300 to 0.700). FIM unlearning "
        "cannot be told from chance, which is an LDS of 0."
    )


def test_unlearning_does_not_win_outright_where_a_difference_may_be_chance(tmp_path: Path) -> None:
    rivals = [Spec(f"rival_{i}", (0.3, 0.2, 0.41)) for i in range(2)]
    text, _ = headline(cohort(database(tmp_path, [*rivals, FIM])))
    assert text.startswith("FIM unlearning does not win outright: its LDS of evidence")
    assert text.endswith(
        "but it cannot be told from rival 0 and rival 1: the differences may be chance."
    )


def test_the_page_opens_with_who_would_be_paid_wrongly(tmp_path: Path) -> None:
    good = Spec("kernel_influence", payout=(0.2, 0.18, 0.22))
    found = cohort(database(tmp_path, [good, replace(FIM, payout=(0.29, 0.26, 0.32))]))
    page = bench.render_bench(bench.BenchReport((found,)))
    (lede,) = re.findall(r'<p class="lede">(.*?)</p>', page, re.DOTALL)
    assert " ".join(re.sub(r"<[^>]+>", "", lede).split()) == (
        "Paid by kernel influence, 20.0 % of the money would go to the wrong rightsholders (95 % "
        "interval 18.0 % to 22.0 %); paid pro rata by seconds trained on, the best way without "
        "attribution, 30.0 %. Surely better than that: kernel influence."
    )
    assert titles(found)[0] == "Who would be paid wrongly?"
    text = section(found, r"Who would be paid wrongly\?")
    assert "correlate within a query by 0.81; those from one seed and from another by 0.77" in text
    assert "exact shares would be measured to have an error of 0.050" in text
    assert "kernel influence 0.200 −0.100 (−0.120 to −0.080) 0.220" in text
    assert "FIM unlearning 0.290 −0.010 (−0.040 to 0.020) 0.310" in text
    assert "Pro rata by seconds trained on 0.300" in text


def test_the_page_says_where_no_method_pays_better_than_pro_rata(tmp_path: Path) -> None:
    found = cohort(database(tmp_path, [replace(FIM, payout=(0.29, 0.26, 0.32))]))
    page = bench.render_bench(bench.BenchReport((found,)))
    assert "No method is better than that by more than chance." in page


def test_without_coalitions_the_page_does_not_speak_of_payouts(tmp_path: Path) -> None:
    found = cohort(database(tmp_path, [FIM]))
    assert "Who would be paid wrongly?" not in titles(found)
    assert "rightsholders" not in bench.render_bench(bench.BenchReport((found,)))


def test_the_terminal_has_payout_errors_beside_those_without_attribution(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "study")
    workspace.database.parent.mkdir(parents=True)
    paid = replace(FIM, payout=(0.29, 0.26, 0.32))
    database(tmp_path, [paid, Spec("timbre")], full=True).rename(workspace.database)
    out = io.StringIO()
    print_bench(workspace, Console(file=out, width=200))
    said = out.getvalue()
    assert re.search(r"FIM unlearning +0\.290 +0\.500", said)
    assert re.search(r"timbre +– +0\.200", said)
    assert (
        "payout error without attribution, rightsholder: pro rata 0.300, equally 0.400, by a "
        "fitted power of size 0.350; exact shares 0.050"
    ) in said


def test_several_numbers_of_left_out_tracks_are_told_in_words(tmp_path: Path) -> None:
    found = cohort(database(tmp_path, [FIM], full=True))
    assert "most attributed 3 tracks were left out" in section(found, "How it was measured")
    several = replace(found, settings={**found.settings, "removed_tracks": [2, 8]})
    assert "most attributed 2 and 8 tracks were left out" in section(several, "How it was measured")
    # The chart is of the largest number.
    assert "without the 8 tracks that" in section(several, "Left out of training")


def test_of_many_rivals_some_are_named_and_the_others_counted(tmp_path: Path) -> None:
    rivals = [Spec(f"rival_{i}", (0.3 - i / 100, 0.2, 0.41)) for i in range(6)]
    text, _ = headline(cohort(database(tmp_path, [*rivals, FIM])))
    assert "cannot be told from rival 0, rival 1, rival 2 and 3 others: the" in text


def test_unlearning_that_is_tied_with_the_best_does_not_win(tmp_path: Path) -> None:
    best = Spec("kernel_influence", (0.7, 0.55, 0.8))
    text, _ = headline(cohort(database(tmp_path, [best, FIM])))
    assert text == (
        "FIM unlearning does not win: the highest LDS of evidence of 2 methods is that of kernel "
        "influence, 0.70 (95 % interval 0.55 to 0.80), and FIM unlearning, with 0.50 (95 % "
        "interval 0.40 to 0.60), is tied with it: the difference, +0.200 (−0.050 to 0.400), may be "
        "chance."
    )


def test_unlearning_that_loses_is_said_to_lose_and_how_its_family_stands(tmp_path: Path) -> None:
    specs = [
        Spec("kernel_influence", (0.9, 0.85, 0.95)),
        Spec("ekfac_influence", (0.8, 0.75, 0.84)),
        Spec("kernel_unlearning", (0.7, 0.61, 0.96), family="unlearning"),
        FIM,
    ]
    text, _ = headline(cohort(database(tmp_path, specs)))
    assert "FIM unlearning does not win: the highest LDS of evidence of 4 methods" in text
    assert "to which it loses with 0.50 (95 % interval 0.40 to 0.60)" in text
    assert "It loses to ekfac influence and kernel unlearning, too." in text
    assert text.endswith(
        "The best method of unlearning is kernel unlearning, 0.70 (95 % interval 0.61 to 0.96), "
        "which cannot be told from kernel influence."
    )


def test_a_winner_of_the_same_family_is_told_as_such(tmp_path: Path) -> None:
    specs = [FIM, Spec("kernel_unlearning", (0.9, 0.8, 0.95), family="unlearning")]
    text, _ = headline(cohort(database(tmp_path, specs)))
    assert text.endswith("Kernel unlearning is a method of unlearning, too.")


def test_methods_are_put_beside_ours_with_what_may_be_chance(tmp_path: Path) -> None:
    specs = [FIM, Spec("better", (0.8, 0.65, 0.9)), Spec("equal", (0.6, 0.45, 0.7)),
             Spec("worse", (0.2, 0.1, 0.3))]  # fmt: skip
    text = section(cohort(database(tmp_path, specs)), "Beside FIM unlearning")
    assert "Better than FIM unlearning by more than chance: better. " in text
    assert "On the confirming half alone: better; the" in text
    assert "better +0.300 (0.050 to 0.500) +0.300 (0.050 to 0.500)" in text
    assert "equal +0.100 (−0.150 to 0.300)" in text
    assert "worse −0.300 (−0.500 to −0.100)" in text


def test_without_fim_unlearning_the_page_says_so(tmp_path: Path) -> None:
    text, _ = headline(cohort(database(tmp_path, [Spec("timbre", (0.1, -0.1, 0.2))])))
    assert text == (
        "The highest LDS of evidence of one method is that of timbre, 0.10 (95 % interval −0.10 to "
        "0.20); FIM unlearning was not among them. None of them can be told from chance, which is "
        "an LDS of 0."
    )


def test_settings_are_chosen_on_the_choosing_half(tmp_path: Path) -> None:
    """What is best in all, but not where settings may be chosen, is not what is judged."""
    lucky = Spec("kernel_influence", (0.9, 0.8, 0.95), settings="damped", choosing=0.1,
                 experiment="ideas")  # fmt: skip
    specs = [lucky, Spec("kernel_influence", (0.3, 0.2, 0.39)), FIM]
    found = cohort(database(tmp_path, specs, full=True))
    text, _ = headline(found)
    assert "FIM unlearning wins: its LDS of evidence is the highest of 2 methods" in text
    assert "best on the choosing half" in section(found, "Quality against cost")
    assert len(found.methods) == 3  # the table has all of them


def test_the_table_has_the_figures_of_the_warehouse(tmp_path: Path) -> None:
    specs = [Spec("timbre", family="similarity"), FIM, Spec("random", (0.0, -0.1, 0.1))]
    path = database(tmp_path, specs, full=True)
    page = bench.render_bench(bench.read_bench(path))
    body = re.search(r'<table class="ranking">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert body is not None
    shown = [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row)]
        for row in re.findall(r"<tr.*?</tr>", body[1], re.DOTALL)
    ]
    known = query(path, "SELECT * FROM v_bench ORDER BY evidence_lds DESC").to_dicts()
    assert len(shown) == len(known) == 3

    def number(cell: str) -> float:
        return float(cell.split()[0].replace("−", "-").replace("+", ""))

    figures = ("evidence_lds", "evidence_lds_confirming", "lds", "lds_confirming", "rise",
               "similar_timbre", "similar_melody", "planted", "planted_copy",
               "seconds_per_query", "bytes_per_query")  # fmt: skip
    scale = {"rise": 100.0, "bytes_per_query": 1e-6}
    for cells, row in zip(shown, known, strict=True):
        assert cells[0] == row["family"]
        for cell, figure in zip(cells[1:], figures, strict=True):
            assert number(cell) == pytest.approx(scale.get(figure, 1) * row[figure], abs=0.006)
        low, high = row["evidence_lds_low"], row["evidence_lds_high"]
        assert cells[1].endswith(f"{low:.2f} to {high:.2f}".replace("-", "−"))


def test_the_best_of_each_column_is_bold(tmp_path: Path) -> None:
    path = database(tmp_path, [FIM, Spec("timbre", raw=(0.4, 0.3, 0.5))])
    page = bench.render_bench(bench.read_bench(path))
    assert re.findall(r"<strong>(.*?)</strong>", page) == ["0.500", "0.450", "0.400", "0.350"]


def test_what_there_are_no_figures_for_is_not_on_the_page(tmp_path: Path) -> None:
    plain = cohort(database(tmp_path, [Spec("timbre")]))
    assert titles(plain) == [
        "All figures",
        "What helped",
        "Query by query",
        "How sure",
        "How it was measured",
    ]
    full = cohort(database(tmp_path, [FIM, Spec("timbre")], full=True))
    assert titles(full) == [
        "Quality against cost",
        "All figures",
        "Beside FIM unlearning",
        "What helped",
        "Left out of training",
        "Planted excerpts found",
        "Query by query",
        "How sure",
        "How it was measured",
    ]


def test_differences_are_paired_over_the_queries_that_confirm(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    usual = [float(each) for each in rng.normal(0.3, 0.2, QUERIES)]
    changed = [float(each) + 0.1 + 0.01 * float(rng.normal()) for each in usual]
    base = {"scoring": {"timestep_min": 0.0, "score": "difference"}}
    other = {"scoring": {"timestep_min": 0.5, "score": "difference"}}
    specs = [
        Spec("fim_unlearning", by_query=usual, config=base, family="unlearning"),
        Spec("fim_unlearning", by_query=changed, config=other, settings="t from 0.5",
             experiment="ideas", family="unlearning"),
        Spec("peer", experiment="peers"),
        Spec("peer", experiment="peers", settings="other"),
    ]  # fmt: skip
    text = section(cohort(database(tmp_path, specs)), "What helped")
    second = slice(QUERIES // 2, None)
    expected = stats.ttest_rel(changed[second], usual[second])
    low, high = expected.confidence_interval(0.95)
    mean = float(np.mean(changed[second]) - np.mean(usual[second]))
    assert f"timestep_min 0 → 0.5 +{mean:.3f} ({low:.3f} to {high:.3f})" in text
    assert "than the bench’s: 1 tried. By evidence helped: FIM unlearning, scoring.timestep" in text
    # Without a default there is nothing to compare with.
    assert "peer" not in text


def test_equal_scores_differ_by_nothing() -> None:
    assert paired([0.0, 0.0, 0.0]) == paired([0.0, 0.0])
    assert str(paired([0.0, 0.0])) == "+0.000 (0.000 to 0.000)"


def test_evidence_is_compared_with_raw_scores_by_method(tmp_path: Path) -> None:
    specs = [Spec("better", (0.4, 0.3, 0.5), (0.2, 0.1, 0.3)),
             Spec("worse", (0.1, 0.0, 0.2), (0.2, 0.1, 0.3))]  # fmt: skip
    text = section(cohort(database(tmp_path, specs)), "What helped")
    assert ("foretells more for 1 of 2 methods, for 1 of them with an interval above 0 and for 1 "
            "with one below. The mean difference over methods is +0.050.") in text  # fmt: skip


@pytest.mark.parametrize("sign", ["prominence", "reliability"])
def test_answers_below_a_threshold_are_told_from_those_above(tmp_path: Path, sign: str) -> None:
    specs = [FIM, Spec("timbre", family="similarity")]
    path = database(tmp_path, specs, **{f"min_{sign}": 0.6})  # type: ignore[arg-type]
    rows = query(
        path,
        f"SELECT * FROM v_reliability_calibration WHERE half = 'confirming' AND {sign} IS NOT NULL",
    )
    above, below = rows.filter(pl.col(sign) >= 0.6), rows.filter(pl.col(sign) < 0.6)
    assert above.height
    assert below.height
    text = section(cohort(path), "How sure")
    assert f"{above.height} of {rows.height} answers reach it" in text
    means = [part["evidence_lds"].mean() for part in (above, below)]
    assert "is {:.2f}, and that of those that do not {:.2f}".format(*means) in text
    found = stats.spearmanr(rows[sign], rows["evidence_lds"]).statistic
    assert f"correlation is {found:.2f}".replace("-", "−") in text
    other = ({"prominence", "reliability"} - {sign}).pop()
    assert f"(shares.min_{other} is 0), so every query is attributed" in text


def test_a_method_without_draws_has_no_reliability_to_calibrate(tmp_path: Path) -> None:
    with_draws = cohort(database(tmp_path / "one", [FIM, Spec("timbre")]))
    assert section(with_draws, "How sure").count("timbre") == 1  # in the table of prominence
    without = section(cohort(database(tmp_path / "other", [Spec("timbre")])), "How sure")
    assert "prominence" in without
    assert "reliability" not in without


def test_two_noise_plans_show_the_coverage_of_intervals(tmp_path: Path) -> None:
    specs = [
        Spec("fim_unlearning", chance=0.4, config={"noise": {"seed": 0}}),
        Spec("fim_unlearning", chance=0.4, config={"noise": {"seed": 1}}, settings="again",
             experiment="ideas"),
    ]  # fmt: skip
    path = database(tmp_path, specs)
    (row,) = query(path, "SELECT * FROM v_interval_coverage").to_dicts()
    text = section(cohort(path), "How sure")
    assert "noise.seed" in text
    assert f"{row['scores']} {100 * row['coverage']:.1f} %" in text


def test_ranks_are_shown_with_the_places_that_chance_leaves_them(tmp_path: Path) -> None:
    path = database(tmp_path, [FIM])
    worst = query(
        path,
        "SELECT median(rank_worst) FROM (SELECT * FROM v_rank_stability "
        "QUALIFY row_number() OVER (PARTITION BY query_id ORDER BY score DESC) = 1)",
    ).item()
    text = section(cohort(path), "How sure")
    assert f"FIM unlearning {TRACKS - 1} {worst:.0f} " in text
    # Coverage is the mean over queries of 0.90, 0.91, ...
    assert f" {90 + (QUERIES - 1) / 2:.1f} %" in text


def test_methods_of_an_earlier_version_are_named_but_not_judged(tmp_path: Path) -> None:
    old = Spec("timbre")
    path = database(tmp_path, [FIM, old], outdated=[old.method_id])
    found = cohort(path)
    assert [method.name for method in found.methods] == ["FIM unlearning"]
    assert "does it anew): timbre." in section(found, "How it was measured")


def test_texts_are_never_interpreted_and_nothing_is_fetched(tmp_path: Path) -> None:
    specs = [FIM, Spec(f"timbre {HOSTILE}", family="similarity"), Spec("x", settings=HOSTILE)]
    page = bench.render_bench(bench.read_bench(database(tmp_path, specs, full=True)))
    assert FORBIDDEN.search(page) is None
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page


def test_the_same_warehouse_gives_the_same_page(tmp_path: Path) -> None:
    path = database(tmp_path, [FIM, Spec("timbre")], full=True, min_reliability=0.6)
    pages = [bench.render_bench(bench.read_bench(path)) for _ in range(2)]
    assert pages[0] == pages[1]


def test_without_ground_truth_the_page_says_how_it_is_asked_for(tmp_path: Path) -> None:
    build(tmp_path / "w.duckdb", {})
    page = bench.render_bench(bench.read_bench(tmp_path / "w.duckdb"))
    assert "tda bench attribution" in page
    assert "no method has been held against ground truth" in page


def test_the_terminal_has_the_order_and_the_figures_of_evidence(tmp_path: Path) -> None:
    study = tmp_path / "study"
    workspace = Workspace(study)
    workspace.database.parent.mkdir(parents=True)
    old = Spec("melody")
    specs = [Spec("timbre", (0.2, 0.1, 0.3), (0.7, 0.6, 0.8)), old, FIM]
    database(tmp_path, specs, full=True, outdated=[old.method_id]).rename(workspace.database)
    out = io.StringIO()
    print_bench(workspace, Console(file=out, width=160))
    lines = out.getvalue().splitlines()
    rows = [line for line in lines if line.startswith(("FIM", "timbre", "melody"))]
    assert [line.split("  ")[0] for line in rows] == ["FIM unlearning", "timbre", "melody"]
    assert re.search(r"0\.500 +\+0\.40 to \+0\.60 +0\.450 +0\.100", rows[0])
    assert re.search(r"melody +– +– +– +0\.100", rows[2])


def test_a_bench_that_cannot_be_halved_says_what_it_has(tmp_path: Path) -> None:
    study = tmp_path / "study"
    workspace = Workspace(study)
    workspace.database.parent.mkdir(parents=True)
    specs = [FIM, Spec("timbre"), Spec("timbre", (0.3, 0.2, 0.4), settings="other")]
    database(tmp_path, specs, full=True, halved=False).rename(workspace.database)
    out = io.StringIO()
    print_bench(workspace, Console(file=out, width=160))
    assert re.search(r"0\.500 +\+0\.40 to \+0\.60 +– +0\.100", out.getvalue())
    found = cohort(workspace.database)
    assert found.entrants[0].name == "FIM unlearning"
    assert "What helped" not in titles(found)
    assert "confirmed</th>" not in bench.render_bench(bench.read_bench(workspace.database))
