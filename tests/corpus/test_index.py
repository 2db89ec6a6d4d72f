"""The index: every row ends up in tracks or rejects, and segments put together are the track."""

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import polars as pl
import pytest
import soundfile
from polars.testing import assert_frame_equal

from tda_dagster.corpus import (
    REJECTS_SCHEMA,
    SEGMENTS_SCHEMA,
    TRACKS_SCHEMA,
    DatasetIndex,
    ManifestRows,
    SegmentSpec,
    TooManyRejects,
    decode_audio,
    decode_segment,
    index_dataset,
    iter_segments,
    read_manifest,
)
from tda_dagster.corpus.split import NothingToTrainOn
from tda_dagster.errors import TdaError

SPEC = SegmentSpec(sample_rate_hz=8000, channels=1, samples=8192, hop_length=512, min_seconds=0.5)


def write(path: Path, seconds: float, seed: int = 0, level: float = 0.5, rate: int = 8000) -> None:
    noise = np.random.default_rng(seed).uniform(-level, level, round(seconds * rate))
    soundfile.write(path, noise, rate, subtype="FLOAT" if path.suffix == ".wav" else None)


def manifest(folder: Path, records: Sequence[dict[str, Any]]) -> str:
    path = folder / "manifest.jsonl"
    lines = [json.dumps({"caption": "a caption"} | record) for record in records]
    path.write_text("\n".join(lines))
    return str(path)


def index(uri: str, spec: SegmentSpec = SPEC, **settings: Any) -> DatasetIndex:
    given = {"heldout_fraction": 0.2, "seed": 7, "max_reject_fraction": 1.0} | settings
    return index_dataset(read_manifest(uri), spec, **given)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Twelve tracks of several formats, rates and lengths, in sub-folders."""
    (tmp_path / "music").mkdir()
    records = []
    for number in range(12):
        suffix = (".wav", ".flac", ".ogg")[number % 3]
        rate = (8000, 11_025, 16_000)[number % 3]
        audio = f"music/t{number:02d}{suffix}"
        write(tmp_path / audio, 0.6 + 0.35 * number, number, rate=rate)
        version = {"version_of": f"t{number - 1:02d}", "version_kind": "other"}
        records.append({"audio": audio} | (version if number % 4 == 1 else {}))
    return manifest(tmp_path, records)


def test_tables(dataset: str) -> None:
    tables = index(dataset)
    assert tables.tracks.schema == TRACKS_SCHEMA
    assert tables.segments.schema == SEGMENTS_SCHEMA
    assert tables.rejects.schema == REJECTS_SCHEMA
    assert tables.tracks["track_id"].to_list() == [f"t{number:02d}" for number in range(12)]
    assert tables.rejects.height == 0
    root = Path(dataset).parent
    for track in tables.tracks.iter_rows(named=True):
        path = root / track["audio"]
        facts = soundfile.info(path)
        assert track["audio_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert track["sample_rate_hz"] == facts.samplerate
        assert track["channels"] == 1
        assert track["duration_s"] == facts.frames / facts.samplerate
        segments = tables.segments.filter(pl.col("track_id") == track["track_id"])
        assert segments["segment_index"].to_list() == list(range(segments.height))
        assert segments["seconds_total"].unique().to_list() == [track["duration_s"]]
        assert segments["split"].unique().to_list() == [track["split"]]
        for segment in segments.iter_rows(named=True):
            number = segment["segment_index"]
            assert segment["segment_id"] == f"{track['track_id']}:{number:04d}"
            assert segment["start_s"] == number * 8192 / 8000
            assert (segment["samples"], segment["frames"]) == (8192, 16)
            assert segment["valid_frames"] == -(-segment["valid_samples"] // 512)
    versions = tables.tracks.filter(pl.col("version_of").is_not_null())
    assert versions.height == 3
    split_of = dict(tables.tracks.select("track_id", "split").iter_rows())
    assert all(split_of[row["version_of"]] == row["split"] for row in versions.to_dicts())


def test_segments_put_together_are_the_track(dataset: str) -> None:
    tables = index(dataset)
    root = Path(dataset).parent
    pieces: dict[str, list[np.ndarray]] = {}
    for segment, samples in iter_segments(tables, SPEC):
        assert samples.shape == (1, SPEC.samples)
        assert samples.dtype == np.float32
        assert hashlib.sha256(samples.tobytes()).hexdigest() == segment["segment_sha256"]
        assert not samples[:, segment["valid_samples"] :].any()
        pieces.setdefault(segment["track_id"], []).append(samples[:, : segment["valid_samples"]])
    assert set(pieces) == set(tables.tracks["track_id"])
    for track in tables.tracks.iter_rows(named=True):
        joined = np.concatenate(pieces[track["track_id"]], axis=1)
        decoded = decode_audio(str(root / track["audio"]), SPEC)
        dropped = decoded.shape[1] - joined.shape[1]
        assert 0 <= dropped < SPEC.min_samples
        np.testing.assert_array_equal(joined, decoded[:, : joined.shape[1]])


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_and_row_order_do_not_change_the_tables(dataset: str, workers: int) -> None:
    expected = index(dataset)
    lines = Path(dataset).read_text().split("\n")
    shuffled = Path(dataset).with_name("shuffled.jsonl")
    shuffled.write_text("\n".join(random.Random(workers).sample(lines, len(lines))))
    seen: list[tuple[int, int]] = []
    found = index(str(shuffled), workers=workers, progress=lambda *done: seen.append(done))
    assert_frame_equal(found.tracks, expected.tracks)
    assert_frame_equal(found.segments, expected.segments)
    assert seen == [(done, 12) for done in range(1, 13)]


def test_every_reject_of_a_file(tmp_path: Path) -> None:
    write(tmp_path / "good.wav", 2)
    write(tmp_path / "silent.wav", 2, level=0.0009)
    write(tmp_path / "zero.wav", 2, level=0)
    write(tmp_path / "short.wav", 0.49)
    write(tmp_path / "empty.wav", 0)
    (tmp_path / "noise.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan), 8000, subtype="FLOAT")
    records = [
        {"audio": "good.wav"},
        {"audio": "nowhere.wav", "title": "x"},
        {"audio": "noise.wav"},
        {"audio": "silent.wav"},
        {"audio": "zero.wav"},
        {"audio": "short.wav"},
        {"audio": "empty.wav"},
        {"audio": "nan.wav"},
        {"audio": "good.wav", "tempo_bpm": "fast"},
        {"audio": "good.wav"},
        {"audio": "good.wav", "track_id": "v1", "version_of": "silent", "version_kind": "other"},
        {"audio": "good.wav", "track_id": "v2", "version_of": "v2"},
    ]
    uri = manifest(tmp_path, records)
    tables = index(uri)
    assert list(tables.rejects.select("line", "track_id", "audio", "reason").iter_rows()) == [
        (2, "nowhere", "nowhere.wav", "missing_file"),
        (3, "noise", "noise.wav", "unreadable"),
        (4, "silent", "silent.wav", "silent"),
        (5, "zero", "zero.wav", "silent"),
        (6, "short", "short.wav", "too_short"),
        (7, "empty", "empty.wav", "too_short"),
        (8, "nan", "nan.wav", "not_finite"),
        (9, None, "good.wav", "wrong_type"),
        (10, None, "good.wav", "duplicate_id"),
        (11, "v1", "good.wav", "unknown_version_of"),
        (12, "v2", "good.wav", "unknown_version_of"),
    ]
    assert not any(str(tmp_path) in detail for detail in tables.rejects["detail"])
    assert tables.tracks["track_id"].to_list() == ["good", "v1", "v2"]
    assert tables.tracks["version_of"].null_count() == 3
    assert tables.tracks["version_kind"].null_count() == 3
    # Nine of twelve rows are left out; versions of nothing are kept and do not count.
    index(uri, max_reject_fraction=9 / 12)
    with pytest.raises(TooManyRejects, match=r"(?s)9 of 12 rows.*line 2: missing_file: 'nowhere"):
        index(uri, max_reject_fraction=8 / 12)


def test_too_many_rejects_are_all_reported_and_alike(tmp_path: Path) -> None:
    path = Path(manifest(tmp_path, [{"audio": f"{number}.wav"} for number in range(50)]))
    path.write_text(path.read_text() + "\n{")
    messages = set()
    for workers in (1, 4):
        seen: list[tuple[int, int]] = []
        with pytest.raises(TooManyRejects) as caught:
            index(
                str(path),
                workers=workers,
                max_reject_fraction=0.2,
                progress=lambda *done, seen=seen: seen.append(done),
            )
        assert sorted(reject.line for reject in caught.value.rejects) == list(range(1, 52))
        assert seen == [(done, 50) for done in range(1, 51)]
        messages.add(str(caught.value))
    (message,) = messages
    assert "51 of 51 rows" in message
    assert "max_reject_fraction = 0.2" in message
    assert "missing_file: 50" in message
    assert "malformed_line: 1" in message


def test_without_a_track_to_train_on_there_is_no_index(tmp_path: Path) -> None:
    write(tmp_path / "good.wav", 2)
    held = [{"audio": "good.wav", "split": "heldout"}]
    with pytest.raises(NothingToTrainOn, match="no track is left to train on"):
        index(manifest(tmp_path, held), progress=lambda *_: pytest.fail("opened"))
    rows = [*held, {"audio": "gone.wav", "split": "train"}]
    with pytest.raises(NothingToTrainOn, match="no track is left to train on"):
        index(manifest(tmp_path, rows))


def test_the_allowed_fraction_is_allowed_exactly(tmp_path: Path) -> None:
    write(tmp_path / "good.wav", 1)
    good = [{"audio": "good.wav", "track_id": f"t{number}"} for number in range(71)]
    uri = manifest(tmp_path, good + [{"audio": f"{number}.wav"} for number in range(29)])
    assert index(uri, max_reject_fraction=0.29).rejects.height == 29  # 0.29 * 100 < 29 in floats


def test_a_track_that_is_taken_down_is_not_opened_and_its_row_is_accounted_for(
    dataset: str,
) -> None:
    before = index(dataset, heldout_fraction=0.0)
    (Path(dataset).parent / "music" / "t03.wav").write_bytes(b"gone")
    after = index(
        dataset, heldout_fraction=0.0, taken_down={"t03", "not here"}, max_reject_fraction=0.0
    )
    assert_frame_equal(after.tracks, before.tracks.filter(pl.col("track_id") != "t03"))
    assert_frame_equal(after.segments, before.segments.filter(pl.col("track_id") != "t03"))
    assert after.rejects.rows(named=True) == [
        {
            "line": 4,
            "track_id": "t03",
            "audio": "music/t03.wav",
            "reason": "taken_down",
            "detail": "left out by request",
        }
    ]


def test_empty_tables_have_their_schemas() -> None:
    tables = index_dataset(
        ManifestRows("m.csv", [], []), SPEC, heldout_fraction=0, seed=0, max_reject_fraction=0
    )
    assert tables.tracks.schema == TRACKS_SCHEMA
    assert tables.segments.schema == SEGMENTS_SCHEMA
    assert tables.rejects.schema == REJECTS_SCHEMA
    assert list(iter_segments(tables, SPEC)) == []


def test_hostile_text_passes_verbatim_and_survives_parquet(tmp_path: Path) -> None:
    write(tmp_path / "'; DROP :: #1?.wav", 1)
    text = "<script>'; DROP TABLE tracks;--\r\n\u2028\0\U0001f3b5"
    names = ("title", "artist", "rightsholder", "composer", "caption", "licence", "track_id")
    uri = manifest(tmp_path, [{"audio": "'; DROP :: #1?.wav"} | dict.fromkeys(names, text)])
    tables = index(uri)
    tables.tracks.write_parquet(tmp_path / "tracks.parquet")
    (track,) = pl.read_parquet(tmp_path / "tracks.parquet").to_dicts()
    assert {track[name] for name in names} == {text}
    assert tables.segments["segment_id"].to_list() == [f"{text}:0000"]
    assert len(list(iter_segments(tables, SPEC, [f"{text}:0000"]))) == 1


def test_chosen_segments_come_in_the_order_asked(dataset: str) -> None:
    tables = index(dataset)
    ids = random.Random(0).choices(tables.segments["segment_id"].to_list(), k=15)
    found = list(iter_segments(tables, SPEC, ids))
    assert [segment["segment_id"] for segment, _ in found] == ids
    tracks = tables.tracks.rows_by_key("track_id", named=True, unique=True)
    for segment, samples in found:
        track = {"track_id": segment["track_id"]} | tracks[segment["track_id"]]
        alone = decode_segment(track, segment, SPEC, manifest=tables.manifest)
        np.testing.assert_array_equal(samples, alone)
    with pytest.raises(TdaError, match="1 segment ids are not in the index, first 'x:0000'"):
        list(iter_segments(tables, SPEC, [ids[0], "x:0000"]))


def test_a_file_that_changed_is_an_error(dataset: str) -> None:
    tables = index(dataset)
    changed = Path(dataset).parent / "music" / "t03.wav"
    write(changed, 2, seed=99)
    with pytest.raises(TdaError, match=r"(?s)t03\.wav.*not the file that was indexed"):
        list(iter_segments(tables, SPEC))
    changed.unlink()
    with pytest.raises(TdaError, match=r"t03\.wav: there is no such file"):
        list(iter_segments(tables, SPEC))


@pytest.mark.parametrize(
    "other",
    [
        SegmentSpec(8000, 1, 4096, 512, 0.5),
        SegmentSpec(8000, 1, 8192, 1024, 0.5),
        SegmentSpec(11_025, 1, 8192, 512, 0.5),
    ],
)
def test_an_index_made_with_other_settings_is_an_error(dataset: str, other: SegmentSpec) -> None:
    with pytest.raises(TdaError, match="was cut with other settings"):
        list(iter_segments(index(dataset), other))


def test_the_manifest_and_its_audio_may_lie_behind_a_url(dataset: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(Path(dataset).parent), "/moved", recursive=True)
    try:
        here, there = index(dataset), index("memory://moved/manifest.jsonl", workers=2)
        assert_frame_equal(here.tracks, there.tracks)
        assert_frame_equal(here.segments, there.segments)
        assert len(list(iter_segments(there, SPEC))) == there.segments.height
    finally:
        memory.rm("/moved", recursive=True)


@pytest.mark.parametrize(
    "settings", [{"heldout_fraction": 1.0}, {"max_reject_fraction": -0.1}, {"workers": 0}]
)
def test_settings_that_cannot_be(dataset: str, settings: dict[str, Any]) -> None:
    with pytest.raises(TdaError, match=next(iter(settings))):
        index(dataset, **settings)
