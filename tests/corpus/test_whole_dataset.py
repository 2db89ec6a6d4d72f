"""What a manifest as a whole makes impossible is said before its files are opened."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tda_dagster.corpus import DatasetIndex, SegmentSpec, index_dataset, read_manifest
from tda_dagster.corpus.files import audio_looks, audio_stamp
from tda_dagster.corpus.split import NothingToTrainOn
from tda_dagster.errors import TdaError

SPEC = SegmentSpec(sample_rate_hz=8000, channels=1, samples=8192, hop_length=512, min_seconds=0.5)


def index(folder: Path, *records: dict[str, object], **settings: object) -> DatasetIndex:
    path = folder / "m.jsonl"
    path.write_text("\n".join(json.dumps({"caption": "c"} | record) for record in records))
    given = {"heldout_fraction": 0.2, "seed": 7, "max_reject_fraction": 1.0} | settings
    return index_dataset(read_manifest(str(path)), SPEC, **given)  # type: ignore[arg-type]


def tone(path: Path) -> None:
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 8000)


@pytest.mark.parametrize(
    ("splits", "taken_down"),
    [(("heldout", "heldout"), ()), (("heldout", "train"), ("1",)), ((None, None), ("0", "1"))],
)
def test_nothing_to_train_on_is_told_before_a_file_is_opened(
    tmp_path: Path, splits: tuple[str | None, ...], taken_down: tuple[str, ...]
) -> None:
    records = [{"audio": f"{n}.wav", "split": split} for n, split in enumerate(splits)]
    with pytest.raises(NothingToTrainOn, match=r"m\.jsonl: no track is left to train on"):
        index(
            tmp_path,
            *records,
            taken_down=taken_down,
            max_reject_fraction=0.0,
            progress=lambda *_: pytest.fail("a file was opened"),
        )


def test_nothing_to_train_on_after_bad_files_is_told_with_their_reasons(tmp_path: Path) -> None:
    tone(tmp_path / "good.wav")
    records = [{"audio": "good.wav", "split": "heldout"}, {"audio": "gone.wav", "split": "train"}]
    with pytest.raises(NothingToTrainOn, match="all of the 1 tracks"):
        index(tmp_path, *records)
    with pytest.raises(NothingToTrainOn, match=r"line 1: missing_file: 'gone\.wav'"):
        index(tmp_path, {"audio": "gone.wav"})


def test_other_columns_reach_the_table_of_tracks(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    tone(tmp_path / "b.wav")
    tables = index(tmp_path, {"audio": "a.wav", "label": "x", "year": 1999}, {"audio": "b.wav"})
    assert [json.loads(extra) for extra in tables.tracks["extra"]] == [
        {"label": "x", "year": "1999"},
        {},
    ]


@pytest.mark.parametrize("name", ["nowhere.csv", "folder.csv"])
def test_a_manifest_that_cannot_be_read_is_named_by_whoever_reads_it(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder.csv").mkdir()
    path = str(tmp_path / name)
    for read in (audio_looks, lambda uri: audio_stamp(uri, {}), read_manifest):
        with pytest.raises(TdaError, match=f"The manifest {path} cannot be opened: ") as caught:
            read(path)
        assert "dataset.manifest" in str(caught.value)
