"""Excerpts whose influence is known: what is held out, and what is trained on in its stead."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from tda_dagster.corpus import SegmentSpec, index_dataset, read_manifest
from tda_dagster.corpus.reference import render_reference_study
from tda_dagster.errors import TdaError

PLANTED = 3


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_reference_study(
        tmp_path_factory.mktemp("planted"), tracks=12, planted=PLANTED, seed=0
    ).parent


@pytest.fixture(scope="module")
def manifest(study: Path) -> pl.DataFrame:
    return pl.read_parquet(study / "manifest.parquet")


def made_of(manifest: pl.DataFrame, kind: str) -> tuple[dict[str, str], dict[str, str]]:
    """The planted track of a kind, and the excerpt it was made of."""
    heldout = manifest.filter(split="heldout")
    planted = manifest.filter(version_kind=kind).join(
        heldout, left_on="version_of", right_on="track_id", how="semi"
    )
    (row,) = planted.iter_rows(named=True)
    (excerpt,) = heldout.filter(track_id=row["version_of"]).iter_rows(named=True)
    return row, excerpt


def test_every_planted_excerpt_is_held_out_and_trained_on_in_one_other_form(
    manifest: pl.DataFrame, study: Path
) -> None:
    assert manifest.filter(split="heldout").height == PLANTED
    dataset = index_dataset(
        read_manifest(str(study / "manifest.parquet")),
        SegmentSpec(22_050, 1, 43 * 512, 512, min_seconds=0.5),
        heldout_fraction=0.1,
        seed=0,
        max_reject_fraction=0.0,
    )
    splits = dict(dataset.tracks.select("track_id", "split").iter_rows())
    assert sorted(splits.values()) == ["heldout"] * PLANTED + ["train"] * (12 - PLANTED + PLANTED)
    for kind in ("copy", "instruments", "mix"):
        planted, excerpt = made_of(manifest, kind)
        assert (splits[planted["track_id"]], splits[excerpt["track_id"]]) == ("train", "heldout")


def test_a_copy_is_the_same_file(manifest: pl.DataFrame, study: Path) -> None:
    planted, excerpt = made_of(manifest, "copy")
    assert (study / planted["audio"]).read_bytes() == (study / excerpt["audio"]).read_bytes()
    assert planted["caption"] == excerpt["caption"]


def test_a_mix_is_the_sum_of_excerpt_and_host_at_equal_power(
    manifest: pl.DataFrame, study: Path
) -> None:
    planted, excerpt = made_of(manifest, "mix")
    mixed, _ = soundfile.read(study / planted["audio"])
    (host,) = [
        row
        for row in manifest.iter_rows(named=True)
        if row["version_kind"] != "mix" and row["caption"] == planted["caption"]
    ]
    parts = np.zeros((len(mixed), 2))
    for column, row in enumerate((host, excerpt)):
        samples, _ = soundfile.read(study / row["audio"])
        samples = samples[: len(mixed)]
        parts[: len(samples), column] = samples
    weights, *_ = np.linalg.lstsq(parts, mixed, rcond=None)
    assert np.abs(parts @ weights - mixed).max() < 1e-3  # 16 bits
    lasting = min(len(mixed), int(np.flatnonzero(parts[:, 1]).max()) + 1)
    powers = np.sqrt((parts[:lasting] ** 2).mean(axis=0)) * weights
    assert powers[1] / powers[0] == pytest.approx(1, rel=0.2)
    assert np.abs(mixed).max() == pytest.approx(10 ** (-3 / 20), abs=1e-3)


def test_the_other_files_are_those_of_the_study_without_plants(
    study: Path, manifest: pl.DataFrame, tmp_path: Path
) -> None:
    plain = pl.read_parquet(render_reference_study(tmp_path, tracks=12, seed=0))
    assert "split" not in plain.columns
    for row in plain.iter_rows(named=True):
        assert (tmp_path / row["audio"]).read_bytes() == (study / row["audio"]).read_bytes()


def test_more_than_half_of_a_study_cannot_be_planted(tmp_path: Path) -> None:
    with pytest.raises(TdaError, match=r"dataset\.reference\.planted: 12 excerpts cannot"):
        render_reference_study(tmp_path, tracks=12, planted=12, seed=0)
