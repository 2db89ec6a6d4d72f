"""Examining files: what is kept of each, and what another attempt may change."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tda_dagster.corpus import RejectReason, SegmentSpec
from tda_dagster.corpus.examination import (
    EXAMINED_SCHEMA,
    Examined,
    Examiner,
    Unusable,
    examined_table,
    outcomes_of,
)
from tda_dagster.corpus.outages import MOST_IN_A_ROW, Outages
from tda_dagster.corpus.shards import stable_groups
from tda_dagster.object_storage import ObjectStorageError

SPEC = SegmentSpec(sample_rate_hz=8000, channels=1, samples=8192, hop_length=512, min_seconds=0.5)


@pytest.fixture
def music(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 24_000)
    soundfile.write(tmp_path / "good.wav", noise, 8000)
    soundfile.write(tmp_path / "silent.wav", 0 * noise, 8000)
    soundfile.write(tmp_path / "short.wav", noise[:100], 8000)
    (tmp_path / "folder.wav").mkdir()
    return tmp_path


def test_outcomes_survive_their_table(music: Path) -> None:
    names = ("good.wav", "silent.wav", "short.wav", "folder.wav", "gone.wav")
    examiner = Examiner(str(music / "manifest.csv"), SPEC)
    outcomes = examiner.examine_all(dict.fromkeys(names), workers=2)
    table = examined_table(outcomes)
    assert table.schema == EXAMINED_SCHEMA
    assert outcomes_of(table) == outcomes
    good = outcomes["good.wav"]
    assert isinstance(good, Examined)
    assert [window.segment_index for window, _ in good.segments] == [0, 1, 2]
    reasons = {n: o.reason for n, o in outcomes.items() if isinstance(o, Unusable)}
    assert reasons == {
        "silent.wav": RejectReason.SILENT,
        "short.wav": RejectReason.TOO_SHORT,
        "folder.wav": RejectReason.MISSING_FILE,
        "gone.wav": RejectReason.MISSING_FILE,
    }


def test_what_could_not_be_read_has_no_sha256_so_that_it_is_tried_again(music: Path) -> None:
    examiner = Examiner(str(music / "manifest.csv"), SPEC)
    known = "ab" * 32
    assert examiner.examine("gone.wav", known).sha256 is None
    (music / "noise.wav").write_bytes(b"no audio")
    assert examiner.examine("noise.wav", known).sha256 == known
    silent = examiner.examine("silent.wav", known).sha256
    assert silent not in (None, known)  # it is that of the bytes that were decoded


def test_a_store_that_fails_file_after_file_stops_the_run() -> None:
    outages = Outages()
    failure = ObjectStorageError("s3://bucket", "no connection", may_pass=True)
    for _ in range(3):
        for _ in range(MOST_IN_A_ROW - 1):
            outages.tolerate(failure)
        outages.over()
    for _ in range(MOST_IN_A_ROW - 1):
        outages.tolerate(failure)
    with pytest.raises(ObjectStorageError):
        outages.tolerate(failure)


def test_groups_are_whole_and_a_name_that_comes_changes_one_of_them() -> None:
    names = [f"music/{number}.wav" for number in range(300)]
    before = dict(stable_groups(names, 16))
    assert sorted(name for group in before.values() for name in group) == sorted(names)
    assert all(0 < len(group) <= 16 for group in before.values())
    assert dict(stable_groups(reversed(names), 16)) == before
    after = dict(stable_groups([*names, "music/new.wav"], 16))
    changed = [group for group in after.values() if group not in before.values()]
    assert len(changed) <= 2
    assert "music/new.wav" in [name for group in changed for name in group]
