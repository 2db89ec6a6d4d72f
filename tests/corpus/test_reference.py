"""The reference study: what it contains, and that its audio is what its metadata say."""

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from tda_dagster.corpus.reference import render_reference_study
from tda_dagster.corpus.reference.arrangement import (
    Interpretation,
    Performance,
    perform,
    transposed,
)
from tda_dagster.corpus.reference.catalogue import Work, load_catalogue, plan_study
from tda_dagster.corpus.reference.excerpts import Excerpt, cut_excerpts
from tda_dagster.corpus.reference.keys import estimate_key, transpose_key
from tda_dagster.corpus.reference.scores import ScoreError, read_score

TRACKS = 12
OPTIONAL = {"version_of", "version_kind"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("study")
    return render_reference_study(out_dir, tracks=TRACKS, seed=7, workers=1)


@pytest.fixture(scope="module")
def manifest(study: Path) -> pl.DataFrame:
    return pl.read_parquet(study)


def work_named(work_id: str) -> Work:
    return next(work for work in load_catalogue().works if work.id == work_id)


def only_excerpt(work: Work) -> Excerpt:
    return cut_excerpts(read_score(work), work, [work.bpm], seed=7)[0]


def digests(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.glob("*.flac")}


class TestPlan:
    def test_whole_study_is_large_varied_and_has_versions(self) -> None:
        plan = plan_study(load_catalogue().works)
        versions = [track for track in plan if track.version_kind]
        assert len(plan) >= 300
        assert len(plan) - len(versions) >= 240
        assert len({track.work.collection.id for track in plan}) >= 8
        assert {track.version_kind for track in versions} == {"instruments", "transposed"}
        assert len(versions) / (len(plan) - len(versions)) == pytest.approx(0.2, abs=0.01)

    def test_a_smaller_study_is_a_beginning_of_a_larger_one_and_spread(self) -> None:
        works = load_catalogue().works
        small = plan_study(works, 14)
        assert small == plan_study(works)[:14]
        assert len({track.work.collection.id for track in small}) >= 8
        assert {track.version_kind for track in small} == {None, "instruments", "transposed"}

    def test_a_version_follows_its_base(self) -> None:
        plan = plan_study(load_catalogue().works)
        for base, version in pairwise(plan):
            if version.version_kind:
                assert base == replace(version, version_kind=None)

    def test_invented_names_say_so(self) -> None:
        catalogue = load_catalogue()
        names = [performer.name for performer in catalogue.performers]
        assert all(name.endswith("(fictional)") for name in (*names, *catalogue.labels))

    def test_every_ensemble_has_a_performer(self) -> None:
        catalogue = load_catalogue()
        played = {family for performer in catalogue.performers for family in performer.plays}
        needed = {e.family for work in catalogue.works for e in work.collection.ensembles}
        assert needed <= played


class TestScores:
    def test_notes_are_those_music21_finds_when_it_joins_ties(self) -> None:
        from music21 import corpus

        work = work_named("bach-chorale-bwv66-6")
        joined = corpus.parse("bach/bwv66.6").stripTies().flatten().notes
        expected = sorted((float(n.offset), n.pitch.midi, float(n.quarterLength)) for n in joined)
        found = sorted((n.onset, n.pitch, n.length) for n in read_score(work).notes)
        assert found == expected

    def test_upbeat_is_found(self) -> None:
        score = read_score(work_named("bach-chorale-bwv66-6"))
        assert (score.upbeat, score.bar_length, score.bars[0]) == (1.0, 4.0, 1.0)

    def test_an_abc_tune_declares_its_key(self) -> None:
        assert read_score(work_named("aird-0011-the-corporal")).declared_key == "A mixolydian"

    def test_a_missing_score_is_named(self) -> None:
        work = replace(work_named("bach-chorale-bwv66-6"), path="bach/bwv0.0.mxl")
        with pytest.raises(ScoreError, match=r"bach/bwv0\.0\.mxl"):
            read_score(work)

    def test_too_many_excerpts_are_refused(self) -> None:
        work = replace(work_named("bach-chorale-bwv66-6"), excerpts=20)
        with pytest.raises(ScoreError, match="excerpts"):
            cut_excerpts(read_score(work), work, [work.bpm] * 20, seed=7)


class TestExcerpts:
    def test_excerpts_of_a_work_do_not_overlap_and_are_its_notes(self) -> None:
        work = work_named("keyboard-and-song-joplin-maple-leaf-rag")
        score = read_score(work)
        excerpts = cut_excerpts(score, work, [work.bpm] * work.excerpts, seed=7)
        played = [(note.pitch, note.part) for note in score.notes]
        position = 0
        for excerpt in excerpts:
            wanted = [(note.pitch, note.part) for note in excerpt.notes]
            while played[position : position + len(wanted)] != wanted:
                position += 1
                assert position < len(played)
            position += len(wanted)
        assert len({excerpt.bar for excerpt in excerpts}) == work.excerpts

    def test_an_excerpt_begins_with_a_note_and_ends_with_its_last_bar(self) -> None:
        excerpt = only_excerpt(work_named("bach-chorale-bwv269"))
        assert excerpt.notes[0].onset == 0
        assert max(note.end for note in excerpt.notes) <= excerpt.quarters + 1e-6


class TestKeys:
    @pytest.mark.parametrize(
        ("name", "semitones", "expected"),
        [
            ("F# minor", 2, "G# minor"),
            ("C major", -2, "Bb major"),
            ("D mixolydian", 5, "G mixolydian"),
            ("A minor", 0, "A minor"),
            ("B major", 0, "B major"),
        ],
    )
    def test_transposing(self, name: str, semitones: int, expected: str) -> None:
        assert transpose_key(name, semitones) == expected

    def test_a_scale_is_in_its_own_key(self) -> None:
        scale = [57, 59, 60, 62, 64, 65, 68, 69]
        assert estimate_key((pitch, 2.0 if pitch in (57, 64, 69) else 1.0) for pitch in scale) == (
            "A minor"
        )


class TestVersions:
    def test_a_transposed_version_plays_the_same_intervals_in_another_key_and_tempo(self) -> None:
        work = work_named("oneill-0987-haste-to-the-wedding")
        ensembles = work.collection.ensembles
        excerpt = only_excerpt(work)
        original = Interpretation(ensembles[0], work.bpm)
        version = transposed(original, ensembles, 7.0, np.random.default_rng(0))
        here, there = (
            self.melody(perform(excerpt, how, np.random.default_rng(1)))
            for how in (original, version)
        )
        assert np.diff(here).tolist() == np.diff(there).tolist()
        assert (there[0] - here[0]) % 12 == version.transposition % 12 != 0
        assert version.ensemble != original.ensemble
        assert version.bpm != original.bpm

    @staticmethod
    def melody(performance: Performance) -> list[int]:
        return [note.pitch for note in performance.voices[0].notes]


class TestStudy:
    def test_metadata_are_complete(self, manifest: pl.DataFrame) -> None:
        assert manifest.height == TRACKS
        assert manifest["track_id"].is_unique().all()
        required = [column for column in manifest.columns if column not in OPTIONAL]
        assert manifest.select(required).null_count().sum_horizontal().item() == 0
        for row in manifest.iter_rows(named=True):
            assert row["key"] in row["caption"]
            assert f"{row['tempo_bpm']:.0f} BPM" in row["caption"]
            assert row["instruments"].lower() in row["caption"].lower()

    def test_versions_name_their_base(self, manifest: pl.DataFrame) -> None:
        versions = manifest.filter(pl.col("version_of").is_not_null())
        pairs = versions.join(
            manifest, left_on="version_of", right_on="track_id", how="left", suffix="_base"
        )
        assert set(versions["version_kind"]) == {"instruments", "transposed"}
        assert (pairs["title"] == pairs["title_base"]).all()
        assert (pairs["instruments"] != pairs["instruments_base"]).all()
        for pair in pairs.iter_rows(named=True):
            same = pair["version_kind"] == "instruments"
            assert (pair["key"] == pair["key_base"]) is same
            assert (pair["tempo_bpm"] == pair["tempo_bpm_base"]) is same

    def test_audio_is_mono_16_bit_and_well_levelled(
        self, study: Path, manifest: pl.DataFrame
    ) -> None:
        for audio in manifest["audio"]:
            samples, rate_hz = soundfile.read(study.parent / audio)
            info = soundfile.info(study.parent / audio)
            assert (info.format, info.subtype, info.channels) == ("FLAC", "PCM_16", 1)
            assert rate_hz == 22050
            assert 3.5 <= samples.size / rate_hz <= 13
            assert 20 * np.log10(np.abs(samples).max()) == pytest.approx(-3, abs=0.1)
            assert -24 < 20 * np.log10(np.sqrt(np.mean(samples**2))) < -9
            assert np.abs(samples[: rate_hz // 10]).max() > 0.02, f"{audio}: silent at its start"
            assert np.abs(samples[-rate_hz // 100 :]).max() < 0.02, f"{audio}: no fade at its end"

    def test_no_other_files_are_left(self, study: Path, manifest: pl.DataFrame) -> None:
        found = {
            f.relative_to(study.parent).as_posix() for f in study.parent.rglob("*") if f.is_file()
        }
        assert found == {*manifest["audio"], "manifest.parquet"}

    def test_tracks_depend_on_neither_workers_nor_the_size_of_the_study(
        self, study: Path, manifest: pl.DataFrame, tmp_path: Path
    ) -> None:
        told: list[tuple[int, int]] = []
        again = render_reference_study(
            tmp_path, tracks=4, seed=7, workers=2, progress=lambda *now: told.append(now)
        )
        few, many = digests(again.parent / "audio"), digests(study.parent / "audio")
        assert len(few) == 4
        assert few.items() <= many.items()
        rows = pl.read_parquet(again)
        assert rows.equals(manifest.filter(pl.col("track_id").is_in(rows["track_id"].implode())))
        assert told[-1] == (4, 4)

    def test_another_seed_gives_other_audio(self, study: Path, tmp_path: Path) -> None:
        other = render_reference_study(tmp_path, tracks=1, seed=8, workers=1)
        assert not set(digests(other.parent / "audio").values()) & set(
            digests(study.parent / "audio").values()
        )

    @pytest.mark.slow
    def test_the_whole_study(self, tmp_path: Path) -> None:
        manifest = pl.read_parquet(render_reference_study(tmp_path, seed=0))
        lengths = [soundfile.info(tmp_path / audio).duration for audio in manifest["audio"]]
        assert manifest["track_id"].n_unique() == len(plan_study(load_catalogue().works))
        assert 3.5 <= min(lengths) <= max(lengths) <= 13
        assert 35 <= sum(lengths) / 60 <= 40
