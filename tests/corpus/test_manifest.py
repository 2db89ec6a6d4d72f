"""Reading manifests: every fault is one reject with its line, everything else passes verbatim."""

import json
import math
import re
import time
from pathlib import Path

import fsspec
import polars as pl
import pytest

from tda_dagster.corpus import ManifestRows, RejectReason, read_manifest
from tda_dagster.errors import TdaError

HOSTILE = [
    "'; DROP TABLE tracks; --",
    '<script>alert("x")</script>',
    "line one\nline two\r\nline three",
    'quotes " and, commas',
    "=HYPERLINK(1)",
    "\u2028 \u202e \x0b \x85 🎵 é",
    "  blanks around  ",
]


def read(folder: Path, text: str | bytes, name: str = "manifest.csv") -> ManifestRows:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(str(path))


def faults(rows: ManifestRows) -> list[tuple[int, str]]:
    return [(reject.line, reject.reason.value) for reject in rows.rejects]


def test_defaults(tmp_path: Path) -> None:
    rows = read(tmp_path, "audio,caption\nmusic/A tune.v2.flac,a tune\n")
    assert rows.rejects == []
    assert rows.rows == [
        (
            2,
            {
                "audio": "music/A tune.v2.flac",
                "caption": "a tune",
                "track_id": "A tune.v2",
                "title": "A tune.v2",
                "artist": "unknown",
                "rightsholder": "unknown",
                "composer": "",
                "collection": "",
                "key": "",
                "tempo_bpm": None,
                "instruments": "",
                "licence": "",
                "version_of": None,
                "version_kind": None,
                "split": None,
                "extra": "{}",
            },
        )
    ]


def test_formats_agree(tmp_path: Path) -> None:
    records = [
        {
            "track_id": f"t{number}",
            "audio": f"{number}.wav",
            "caption": "c",
            "title": title,
            "tempo_bpm": 90.5,
            "version_of": "t0" if number else None,
            "split": "heldout",
        }
        for number, title in enumerate(HOSTILE)
    ]
    table = pl.DataFrame(records)
    table.write_csv(tmp_path / "m.csv")
    table.write_parquet(tmp_path / "m.parquet")
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    read_rows = {
        suffix: read_manifest(str(tmp_path / f"m{suffix}"))
        for suffix in (".csv", ".jsonl", ".parquet")
    }
    for rows in read_rows.values():
        assert rows.rejects == []
        assert [row for _, row in rows.rows] == [row for _, row in read_rows[".csv"].rows]
        assert [row["title"] for _, row in rows.rows] == HOSTILE
    assert [line for line, _ in read_rows[".jsonl"].rows] == list(range(1, 8))
    assert [line for line, _ in read_rows[".parquet"].rows] == list(range(1, 8))
    # The third title is three lines long in CSV.
    assert [line for line, _ in read_rows[".csv"].rows] == [2, 3, 4, 7, 8, 9, 10]


def test_every_reject_of_a_value(tmp_path: Path) -> None:
    good: dict[str, object] = {"audio": "a.wav", "caption": "c"}
    cases: list[tuple[dict[str, object], RejectReason, str]] = [
        ({"audio": None}, RejectReason.MISSING_VALUE, "audio is empty"),
        ({"caption": "  \n"}, RejectReason.MISSING_VALUE, "caption is empty"),
        ({"tempo_bpm": "fast"}, RejectReason.WRONG_TYPE, "tempo_bpm must be a number"),
        ({"tempo_bpm": True}, RejectReason.WRONG_TYPE, "True"),
        ({"tempo_bpm": [1]}, RejectReason.WRONG_TYPE, r"\[1\]"),
        ({"tempo_bpm": "1_0"}, RejectReason.WRONG_TYPE, "1_0"),
        ({"tempo_bpm": math.inf}, RejectReason.WRONG_VALUE, "positive number, but is inf"),
        ({"tempo_bpm": "9" * 5000}, RejectReason.WRONG_TYPE, "999\\.\\.\\."),
        ({"tempo_bpm": -3}, RejectReason.WRONG_VALUE, "-3"),
        ({"tempo_bpm": 10**400}, RejectReason.WRONG_TYPE, "401 digits"),
        ({"title": ["x"]}, RejectReason.WRONG_TYPE, r"title must be text, but is \['x'\]"),
        ({"title": 1.5}, RejectReason.WRONG_TYPE, "1.5"),
        ({"title": True}, RejectReason.WRONG_TYPE, "True"),
        ({"title": "x" * 200_000}, RejectReason.WRONG_VALUE, "title is 200,000 characters long"),
        ({"track_id": 2.0**60}, RejectReason.WRONG_TYPE, "write the column as text"),
        ({"track_id": "x" * 1_001}, RejectReason.WRONG_VALUE, "at most 1,000"),
        ({"audio": math.nan}, RejectReason.MISSING_VALUE, "audio is empty"),
        ({"caption": math.nan}, RejectReason.MISSING_VALUE, "caption is empty"),
        ({"mood": "\ud800"}, RejectReason.WRONG_VALUE, "column 'mood' is not valid Unicode"),
        ({"\ud800": "x"}, RejectReason.WRONG_VALUE, "column's name is not valid Unicode"),
        ({"title": "\ud800"}, RejectReason.WRONG_VALUE, "title is not valid Unicode"),
        ({"audio": "\udfff.wav"}, RejectReason.WRONG_VALUE, "audio is not valid Unicode"),
        ({"split": "test"}, RejectReason.WRONG_VALUE, "'train' or 'heldout'"),
        ({"track_id": "first"}, RejectReason.DUPLICATE_ID, "already used on line 1$"),
        ({"audio": "x/first.wav"}, RejectReason.DUPLICATE_ID, "from the file name"),
    ]
    records = [good | {"track_id": "first"}, *(good | change for change, _, _ in cases)]
    rows = read(tmp_path, "\n".join(map(json.dumps, records)), "m.jsonl")
    assert [line for line, _ in rows.rows] == [1]
    assert faults(rows) == [(line, case[1].value) for line, case in enumerate(cases, start=2)]
    for reject, (_, _, detail) in zip(rows.rejects, cases, strict=True):
        assert re.search(detail, reject.detail), reject
        assert len(reject.detail) < 200
    assert rows.total == len(records)


def test_an_integer_in_a_text_column_is_its_digits(tmp_path: Path) -> None:
    rows = read(tmp_path, '{"audio": "a.wav", "caption": 7, "track_id": 17}', "m.jsonl")
    assert rows.rows[0][1]["track_id"] == "17"
    assert rows.rows[0][1]["caption"] == "7"


def test_malformed_json_lines(tmp_path: Path) -> None:
    good = '{"audio": "a.wav", "caption": "c"}'
    lines = [
        good,
        "{oops",
        "",
        "[1, 2]",
        '"x"',
        "[" * 100_000,
        "9" * 5000,
        good.replace("a.", "b."),
        good.replace('"caption"', '"audio"'),
    ]
    rows = read(tmp_path, "\r\n".join(lines), "m.jsonl")
    assert [line for line, _ in rows.rows] == [1, 8]
    assert faults(rows) == [(line, "malformed_line") for line in (2, 4, 5, 6, 7, 9)]
    assert rows.rejects[-1].detail.endswith("it has the key 'audio' twice")


def test_malformed_csv_lines_cost_no_other_line(tmp_path: Path) -> None:
    text = (
        "audio,caption\n"
        "a.wav,good\n"
        'b.wav,"never closed\n'
        'c.wav,"good, quoted"\n'
        "d.wav\n"
        "\n"
        "e.wav,too,many\n"
        'f.wav,"closed" badly\n'
        'g.wav,"two\nlines"\n'
        "h.wav,good\n"
        'i.wav,"open to the end\n'
        "j.wav,good\n"
    )
    rows = read(tmp_path, text)
    assert faults(rows) == [(line, "malformed_line") for line in (3, 5, 7, 8, 12)]
    assert [(line, row["audio"][0]) for line, row in rows.rows] == [
        (2, "a"),
        (4, "c"),
        (9, "g"),
        (11, "h"),
        (13, "j"),
    ]


def test_a_byte_order_mark_and_blanks_in_the_header_do_not_matter(tmp_path: Path) -> None:
    rows = read(tmp_path, b"\xef\xbb\xbf\r\naudio , caption\r\na.wav,c\r\n")
    assert [(line, row["caption"]) for line, row in rows.rows] == [(3, "c")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"audio,text\na.wav,c\n", r"no column 'caption'.*'audio', 'text'"),
        ("m.csv", b"audio;caption\na.wav;c\n", "separated by commas"),
        ("m.csv", b"audio,caption,audio\n", "names a column twice: audio"),
        ("m.csv", b'audio,"caption\n', "header .line 1. is not valid CSV"),
        ("m.csv", b"audio,caption\n", "no rows"),
        ("m.csv", b"", "no rows"),
        ("m.csv", "audio,caption\na.wav,café\n".encode("latin1"), "line 2 is not UTF-8.*0xe9"),
        ("m.csv", "audio,caption\na.wav,“c”\n".encode("cp1252"), "0x93.*iconv -f CP1252"),
        ("m.csv", "audio,caption\n".encode("utf-16"), "UTF-16, not UTF-8.*iconv -f UTF-16 "),
        ("m.csv", "audio\tcaption\n".encode("utf-16"), "UTF-16.*separated by tabs"),
        ("m.csv", "audio,caption\n".encode("utf-16-le"), "iconv -f UTF-16LE "),
        ("m.csv", "audio,caption\n".encode("utf-16-be"), "iconv -f UTF-16BE "),
        ("m.csv", "audio,caption\n".encode("utf-32"), "iconv -f UTF-32 "),
        ("m.csv", "audio,caption\n".encode("utf-32-be"), "iconv -f UTF-32BE "),
        ("m.jsonl", '{"audio": "ä"}\n'.encode("utf-16"), "UTF-16, not UTF-8"),
        ("m.csv", b"PK\x03\x04 a workbook", "Excel workbook"),
        ("m.csv", b"\x1f\x8b\x08 packed", "compressed with gzip"),
        ("m.csv", b"audio\tcaption\na.wav\tc\n", "separated by tabs here"),
        ("m.csv", b'"audio";"caption"\r\na.wav;c\r\n', "separated by semicolons here"),
        ("m.csv", b"," * 100_000 + b"\n", "'column 12' and 99,989 more"),
        ("m.csv", b"audio," + b"x" * 200_000 + b"\n", "header .line 1. is not valid CSV"),
        ("m.jsonl", b'[{"audio": "a", "caption": "c"}]', "one JSON array.*jq"),
        ("m.jsonl", b'{"audio": "a"}', "no column 'caption'"),
        ("m.jsonl", b'{"a": "\xe9"}', "not UTF-8"),
        ("m.jsonl", b"\n\n", "no rows"),
        ("m.parquet", b"PAR1 no PAR1", "not a readable Parquet file"),
        ("m.parquet", b"", "not a readable Parquet file"),
        ("m.xlsx", b"", "suffix '.xlsx'.*csv, .jsonl, .parquet"),
        ("manifest", b"", "suffix ''"),
    ],
)
def test_a_faulty_file_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(TdaError, match=f"(?s){name}.*{message}"):
        read(tmp_path, content, name)


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TdaError, match=r"nowhere\.csv cannot be opened: there is no such file"):
        read_manifest(str(tmp_path / "nowhere.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TdaError, match="is a folder"):
        read_manifest(str(tmp_path / "folder.csv"))
    with pytest.raises(TdaError, match="Protocol not known"):
        read_manifest("nosuch://bucket/m.csv")


def test_a_manifest_behind_a_url() -> None:
    with fsspec.open("memory://manifests/m.csv", "wb") as file:
        file.write(b"audio,caption\na.wav,c\n")
    assert read_manifest("memory://manifests/m.csv").total == 1


def test_wrong_column_types_in_parquet(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "audio": ["a.wav", "b.wav"],
            "caption": ["c", None],
            "instruments": [["piano"], []],
            "unknown": [{"nested": 1}] * 2,
        }
    ).write_parquet(tmp_path / "m.parquet")
    rows = read_manifest(str(tmp_path / "m.parquet"))
    assert faults(rows) == [(1, "wrong_type"), (2, "missing_value")]
    assert rows.rejects[0].audio == "a.wav"


def test_time_grows_with_rows_not_their_square(tmp_path: Path) -> None:
    lines = [f'a/{number}.wav,"caption {number}"' for number in range(100_000)]
    started = time.monotonic()
    rows = read(tmp_path, "audio,caption\n" + "\n".join(lines))
    assert len(rows.rows) == 100_000
    assert time.monotonic() - started < 20
