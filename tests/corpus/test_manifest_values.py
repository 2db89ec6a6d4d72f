"""Values that programs write: one dataset reads the same from all formats, and nothing is lost."""

import datetime as dt
import json
import logging
import math
import time
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from tda_dagster.corpus import ManifestRow, read_manifest
from tda_dagster.corpus.manifest import OPTIONAL_COLUMNS
from tda_dagster.errors import TdaError


def row(path: Path, number: int = 0) -> ManifestRow:
    rows = read_manifest(str(path))
    assert rows.rejects == []
    return rows.rows[number][1]


def csv(folder: Path, text: str) -> Path:
    path = folder / "m.csv"
    path.write_text(text, encoding="utf-8")
    return path


def jsonl(folder: Path, *records: dict[str, object]) -> Path:
    path = folder / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def parquet(folder: Path, **columns: object) -> Path:
    path = folder / "m.parquet"
    pl.DataFrame({"audio": ["a.wav"], "caption": ["c"]} | columns).write_parquet(path)
    return path


@pytest.mark.parametrize("column", OPTIONAL_COLUMNS)
def test_nan_is_missing_in_every_column(tmp_path: Path, column: str) -> None:
    nothing = row(jsonl(tmp_path, {"audio": "a.wav", "caption": "c"}))
    assert row(jsonl(tmp_path, {"audio": "a.wav", "caption": "c", column: math.nan})) == nothing
    assert row(parquet(tmp_path, **{column: [math.nan]})) == nothing
    assert row(parquet(tmp_path, **{column: pl.Series([math.nan], dtype=pl.Float32)})) == nothing


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "null", "None", "<NA>", " nan "])
def test_words_for_missing_values_are_missing_where_they_cannot_be_names(
    tmp_path: Path, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"audio,caption,tempo_bpm,split,version_of,composer\na.wav,c,{word},{word},{word},{word}"
    with caplog.at_level(logging.WARNING):
        found = row(csv(tmp_path, text))
    assert (found["tempo_bpm"], found["split"], found["version_of"]) == (None, None, None)
    assert found["composer"] == word  # which could be a name
    assert "column composer: 1 values are words such as nan" in caplog.text


def test_a_word_for_missing_values_is_an_id_if_a_track_has_it(tmp_path: Path) -> None:
    path = csv(tmp_path, "track_id,audio,caption,version_of\nnan,a.wav,c,\nx,b.wav,c,nan\n")
    assert row(path, 1)["version_of"] == "nan"


@pytest.mark.parametrize(
    "ids",
    [
        [101.0, 102.0],
        pl.Series([101.0, 102.0], dtype=pl.Float32),
        pl.Series([101, 102], dtype=pl.UInt8),
        [Decimal("101.00"), Decimal("102.00")],
        pl.Series(["101", "102"], dtype=pl.Categorical),
        pl.Series(["101", "102"], dtype=pl.Enum(["101", "102"])),
    ],
)
def test_whole_numbers_are_ids_whatever_their_type(tmp_path: Path, ids: object) -> None:
    path = tmp_path / "m.parquet"
    pl.DataFrame(
        {
            "track_id": ids,
            "audio": ["a.wav", "b.wav"],
            "caption": ["c", "d"],
            "version_of": [math.nan, 101.0],
        }
    ).write_parquet(path)
    first, second = row(path, 0), row(path, 1)
    assert (first["track_id"], first["version_of"]) == ("101", None)
    assert (second["track_id"], second["version_of"]) == ("102", "101")


def test_ids_that_became_floats_in_one_column_of_a_csv_file(tmp_path: Path) -> None:
    # pandas writes a column of whole numbers as floats as soon as one of them is missing.
    path = csv(tmp_path, "track_id,audio,caption,version_of\n101,a.wav,c,\n102,b.wav,c,101.0\n")
    assert row(path, 1)["version_of"] == "101"
    path = csv(tmp_path, "track_id,audio,caption,version_of\n101.0,a.wav,c,\n2,b.wav,c,101.0\n")
    assert row(path, 1)["version_of"] == "101.0"


def test_dates_and_decimals_in_columns_of_text(tmp_path: Path) -> None:
    found = row(
        parquet(
            tmp_path,
            title=[dt.datetime(1999, 1, 2, 3, 4, 5)],
            collection=[dt.date(1999, 1, 2)],
            tempo_bpm=[Decimal("90.50")],
        )
    )
    assert found["title"] == "1999-01-02 03:04:05"
    assert found["collection"] == "1999-01-02"
    assert found["tempo_bpm"] == 90.5


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"raw", "title must be text, but is bytes b'raw'; write the column as text"),
        ({"a": 1}, "title must be text, but is {'a': 1}"),
        (dt.timedelta(seconds=1), "title must be text, but is 0:00:01"),
        ([["x"] * 50], "title must be text"),
    ],
)
def test_other_types_in_columns_of_text_are_rejects(
    tmp_path: Path, value: object, told: str
) -> None:
    (reject,) = read_manifest(str(parquet(tmp_path, title=[value]))).rejects
    assert reject.reason == "wrong_type"
    assert told in reject.detail
    assert len(reject.detail) < 200


def test_other_columns_are_kept_as_strings_in_all_formats(tmp_path: Path) -> None:
    record = {"audio": "a.wav", "caption": "c", "label": 'Ünïted \n"quoted"', "year": 1999}
    wanted = {"label": record["label"], "year": "1999"}
    jsonl(tmp_path, record | {"unknown": None, "blank": " "})
    pl.DataFrame(record).write_csv(tmp_path / "m.csv")
    pl.DataFrame(record | {"unknown": None}).write_parquet(tmp_path / "m.parquet")
    kept = {row(tmp_path / f"m.{kind}")["extra"] for kind in ("jsonl", "csv", "parquet")}
    assert [json.loads(text) for text in kept] == [wanted]


def test_other_columns_of_any_type(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = row(
        parquet(
            tmp_path,
            whole=[3.0],
            part=[2.5],
            never=[math.nan],
            yes=[True],
            day=[dt.date(1999, 1, 2)],
            tags=[["a", None, "b"]],
            nested=[{"x": 1.5, "y": [math.nan]}],
            picture=[b"\x89PNG"],
        )
    )
    assert json.loads(found["extra"]) == {
        "whole": "3",
        "part": "2.5",
        "yes": "true",
        "day": "1999-01-02",
        "tags": '["a", null, "b"]',
        "nested": '{"x": 1.5, "y": [null]}',
    }
    assert "columns that hold bytes are not kept: 'picture'" in caplog.text


def test_the_order_of_columns_does_not_matter(tmp_path: Path) -> None:
    first = row(csv(tmp_path, "audio,caption,b,a\nx.wav,c,1,2\n"))
    assert row(csv(tmp_path, "a,b,caption,audio\n2,1,c,x.wav\n")) == first


def test_a_column_without_a_name_is_called_after_its_place(tmp_path: Path) -> None:
    assert row(csv(tmp_path, ",audio,caption,\n7,x.wav,c,\n"))["extra"] == '{"column 1": "7"}'


@pytest.mark.parametrize(
    ("name", "meant"), [("Artist", "artist"), ("license", "licence"), ("bpm", "tempo_bpm")]
)
def test_a_column_that_is_almost_one_of_ours_is_told(
    tmp_path: Path, name: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = row(csv(tmp_path, f"audio,caption,{name}\nx.wav,c,7\n"))
    assert json.loads(found["extra"]) == {name: "7"}
    assert f"column '{name}' is not '{meant}', which is missing" in caplog.text


# ---------------------------------------------------------------- large input


def test_many_columns_take_time_in_proportion(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(100_000)]
    path = csv(tmp_path, ",".join(["audio", "caption", *names]) + "\nx.wav,c" + ",1" * len(names))
    started = time.monotonic()
    assert len(json.loads(row(path)["extra"])) == len(names)
    different = jsonl(
        tmp_path, *({"audio": f"{n}.wav", "caption": "c", f"k{n}": n} for n in range(20_000))
    )
    assert row(different, 19_999)["extra"] == '{"k19999": "19999"}'
    assert time.monotonic() - started < 10


def test_large_values_are_rejects_of_one_line(tmp_path: Path) -> None:
    text = "x" * 5_000_000
    good = '{"audio": "ok.wav", "caption": "c"}'
    nested = "[" * 900 + "]" * 900
    (tmp_path / "m.jsonl").write_text(
        f'{good}\n{{"audio": "{text}", "caption": "c"}}\n'
        f'{{"audio": "b.wav", "caption": "c", "{text}": 1}}\n'
        f'{{"audio": "c.wav", "caption": "c", "x": {nested}}}\n'
        f'{{"audio": "d.wav", "caption": "c", "x": {"9" * 100_000}}}\n'
        f"{text}\n"
    )
    (tmp_path / "m.csv").write_text(f"audio,caption\nb.wav,{text}\nok.wav,c\n")
    for name, bad in (("m.jsonl", 5), ("m.csv", 1)):
        rows = read_manifest(str(tmp_path / name))
        assert [row["audio"] for _, row in rows.rows] == ["ok.wav"]
        assert len(rows.rejects) == bad
        assert all(len(r.detail) < 200 and "\n" not in r.detail for r in rows.rejects)
        assert all(len(r.audio or "") < 200 for r in rows.rejects)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"audio": pl.repeat("a.wav", 2_000_000, eager=True)}, "it has 2,000,000 rows"),
        ({"x": [pl.repeat(0, 60_000_000, eager=True)]}, "it has 60,000,000 values"),
        ({"x": pl.repeat("x" * 1_000_000, 4_400, eager=True)}, "its text is 4.4 GB long"),
    ],
)
def test_a_parquet_file_that_unpacks_to_too_much_is_not_unpacked(
    tmp_path: Path, columns: dict[str, object], told: str
) -> None:
    path = tmp_path / "m.parquet"
    pl.DataFrame(columns).write_parquet(path, statistics=False)
    assert path.stat().st_size < 5_000_000
    started = time.monotonic()
    with pytest.raises(TdaError, match=f"m.parquet: {told}; a manifest has at most"):
        read_manifest(str(path))
    assert time.monotonic() - started < 5


def test_many_rows_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tda_dagster.corpus.manifest_files._MOST_ROWS", 1_000)
    assert (
        len(read_manifest(str(csv(tmp_path, "audio,caption\n" + "x,y\n" * 1_000))).rejects) == 999
    )
    for bad in ("x,y\n", "x\n"):
        with pytest.raises(TdaError, match="at most 1,000 rows"):
            read_manifest(str(csv(tmp_path, "audio,caption\n" + bad * 1_001)))
