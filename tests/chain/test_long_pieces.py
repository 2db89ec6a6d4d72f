"""Pieces through the whole chain: several windows, equal pieces, one more piece."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from chain.conftest import Study, own_study

from warehouse.build import query

pytestmark = pytest.mark.slow

PIPELINE_RATE = 1000
WINDOW = 512
"""Samples of a window of the tests' pipeline at its rate."""


def tone(samples: int, hertz: float = 130.0) -> np.ndarray:
    time = np.arange(samples) / PIPELINE_RATE
    return np.asarray(0.4 * np.sin(2 * math.pi * hertz * time * (1 + 0.2 * time)))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, spectral_folder: Path) -> tuple[Study, str]:
    """A study that has been run, and what the run said: two equal generated pieces, a recording of
    a silent and two sounding windows with a little rest, and two files of the same short sound."""
    study = own_study(tmp_path_factory.mktemp("pieces") / "study", spectral_folder)
    params = yaml.safe_load((study.root / "params.yaml").read_text())
    params["methods"] = ["fim_unlearning", "mucs", "grad_dot", "representer", "random"]
    params["method_settings"]["mucs"] = {"max_steps": 2, "bound": 20.0}
    params["gradients"] |= {"draws": 3, "dimension": None, "batch_size": 4}
    params["shares"] |= {"min_reliability": 0.0, "min_prominence": 0.0, "threshold_z": 0.5}
    (study.root / "params.yaml").write_text(yaml.safe_dump(params))
    long = np.concatenate([np.zeros(WINDOW), tone(WINDOW + 300), np.zeros(10)])
    soundfile.write(study.root / "long.wav", long, PIPELINE_RATE)
    for name in ("short.wav", "again.flac"):
        samples = (2**15 * tone(400, 90.0)).astype(np.int16)
        soundfile.write(study.root / name, samples, PIPELINE_RATE)
    (study.root / "cohorts" / "reference.yaml").write_text(
        "fidelity: 2\n"
        "queries:\n"
        "- {prompt: a slow organ prelude, seed: 3}\n"
        "- {audio: short.wav, caption: a tone}\n"
        "- {audio: long.wav}\n"
        "- {prompt: a slow organ prelude, seed: 3}\n"
        "- {audio: again.flac, caption: a tone}\n"
    )
    return study, study.run("tda", "run").stdout


def rows(study: Study, sql: str) -> list[tuple[object, ...]]:
    return list(query(study.root / "warehouse" / "attribution.duckdb", sql).iter_rows())


def test_a_long_piece_is_attributed_by_windows(ran: tuple[Study, str]) -> None:
    study, said = ran
    found = rows(
        study,
        "select query_id, window_index, start_s, silent, valid_frames from dim_query "
        "where piece_id = 'reference-002' order by window_index",
    )
    assert found == [
        ("reference-002-w00", 0, 0.0, True, 16),
        ("reference-002-w01", 1, 0.512, False, 16),
        ("reference-002-w02", 2, 1.024, False, 10),
    ]
    scored = rows(study, "select distinct query_id from fct_score order by 1")
    assert [name for (name,) in scored] == [
        "reference-000",
        "reference-001",
        "reference-002-w01",
        "reference-002-w02",
        "reference-003",
        "reference-004",
    ]
    assert "reference-002  long.wav: 1.3 s, 3 windows of 0.51 s" in said
    assert "silent and not attributed: 1 (0)" in said
    assert "silent, not attributed" in said


def test_shares_of_a_piece_are_those_of_its_windows_by_seconds(ran: tuple[Study, str]) -> None:
    study, _ = ran
    sums = rows(
        study,
        "select piece_id, sum(share) from v_piece_rightsholder_share group by piece_id, method_id",
    )
    assert len(sums) == 5 * 5
    assert [share for _, share in sums] == pytest.approx([1.0] * len(sums))
    windows = rows(
        study,
        "select method_id, query_id, seconds from v_piece_window where piece_id = 'reference-002'",
    )
    of_window = {
        (method, name, track): share
        for method, name, track, share in rows(
            study, "select method_id, query_id, track_id, share from v_track_share"
        )
    }
    for method, track, share in rows(
        study,
        "select method_id, track_id, share from v_piece_track_share "
        "where piece_id = 'reference-002'",
    ):
        mine = [(w, s) for m, w, s in windows if m == method]
        total = sum(s for _, s in mine)  # type: ignore[misc]
        expected = sum(of_window.get((method, w, track), 0) * s / total for w, s in mine)  # type: ignore[operator]
        assert share == pytest.approx(expected, abs=1e-12)
    # The silent window is nobody's: 16 of 42 frames.
    unattributed = rows(
        study, "select min(unattributed) from v_piece_summary where piece_id = 'reference-002'"
    )
    assert unattributed[0][0] >= 16 / 42  # type: ignore[operator]


def test_a_piece_of_one_window_has_the_shares_of_its_query(ran: tuple[Study, str]) -> None:
    study, _ = ran
    columns = "method_id, track_rank, track_id, share, best_score, best_segment_id, unattributed"
    for name in ("reference-000", "reference-001"):
        of_piece, of_query = (
            rows(study, f"select {columns} from {view} where {key} = '{name}' order by 1, 2")
            for view, key in (("v_piece_track_share", "piece_id"), ("v_track_share", "query_id"))
        )
        assert of_piece
        for ours, theirs in zip(of_piece, of_query, strict=True):
            assert ours[:3] == theirs[:3]
            assert ours[5] == theirs[5]
            numbers = [(row[3], row[4], row[6]) for row in (ours, theirs)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-12)


def test_equal_pieces_are_attributed_alike_wherever_they_stand(ran: tuple[Study, str]) -> None:
    study, _ = ran
    for one, other in (("reference-000", "reference-003"), ("reference-001", "reference-004")):
        for view in ("fct_score", "v_query_reliability", "v_track_share", "v_rank_stability"):
            select = f"select * exclude (query_id) from {view} where query_id"
            alike = [rows(study, f"{select} = '{name}' order by all") for name in (one, other)]
            assert alike[0]
            assert alike[0] == alike[1], view
    # The draws of different pieces are different: random scores show it.
    scores = rows(
        study,
        "select count(distinct score) from fct_score s join dim_method using (method_id) "
        "where method = 'random' and query_id in ('reference-000', 'reference-001')",
    )
    segments = rows(study, "select count(*) from dim_segment where split = 'train'")
    assert scores[0][0] == 2 * segments[0][0]  # type: ignore[operator]


def test_the_page_and_the_summary_show_pieces(ran: tuple[Study, str]) -> None:
    study, said = ran
    page = (study.root / "data" / "report" / "reference.html").read_text(encoding="utf-8")
    assert page.count('class="piece"') == 5
    assert "in 3 windows, each attributed by itself" in page
    assert "Windows of the piece" in page
    assert said.count("reference-002  “") == 5  # once by each method
    assert "reference-002-w01  “" not in said


def test_one_more_piece_computes_only_itself(ran: tuple[Study, str]) -> None:
    study, _ = ran
    assets = (
        "cohort/queries/shard",
        "unlearned/checkpoints/shard",
        "unlearned/losses/shard",
        "evaluation/generations/shard",
    )
    before = {asset: study.refs(asset) for asset in assets}
    study.run("tda", "query", "add", "-c", "reference", "--prompt", "a fast violin dance")
    study.run("tda", "run")
    for asset in assets:
        fresh = study.refs(asset).keys() - before[asset].keys()
        assert {name: study.refs(asset)[name] for name in before[asset]} == before[asset]
        wanted = "generations" not in asset
        assert bool(fresh) == wanted, asset
        recipes = [study.refs(asset)[name]["recipe"] for name in fresh]
        names = [recipe["partition"] for recipe in recipes]  # type: ignore[index]
        assert all(name.startswith("reference-005") for name in names), names
