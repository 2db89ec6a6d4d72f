"""A user's manifest: the list of audio files with captions and metadata that makes a dataset.

Belongs here: the columns a manifest may have, their types and defaults, and reading CSV, JSONL and
Parquet into rows that are valid as far as can be told without opening the audio.
"""

import csv
import io
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePosixPath
from typing import TypedDict

import polars as pl

from tda_dagster.corpus.location import LocationError, read_bytes, suffix
from tda_dagster.corpus.rejects import Reject, RejectReason, shown
from tda_dagster.errors import TdaError

_log = logging.getLogger(__name__)

REQUIRED_COLUMNS = ("audio", "caption")
SPLITS = ("train", "heldout")

_TEXT_DEFAULTS = {
    "artist": "unknown",
    "rightsholder": "unknown",
    "composer": "",
    "collection": "",
    "key": "",
    "instruments": "",
    "licence": "",
}
"""Scores are summed by artist and rightsholder, so these two need a name even where there is none;
other text that the manifest does not give is empty. A missing title is the track's id."""

OPTIONAL_COLUMNS = (
    "track_id",
    "title",
    *_TEXT_DEFAULTS,
    "tempo_bpm",
    "version_of",
    "version_kind",
    "split",
)


class ManifestRow(TypedDict):
    """One valid row: every column present, defaults filled in, `audio` as the manifest has it."""

    audio: str
    caption: str
    track_id: str
    title: str
    artist: str
    rightsholder: str
    composer: str
    collection: str
    key: str
    tempo_bpm: float | None
    instruments: str
    licence: str
    version_of: str | None
    version_kind: str | None
    split: str | None


@dataclass(frozen=True)
class ManifestRows:
    """A manifest as read: `rows` pairs line numbers with valid rows, `rejects` has the others."""

    uri: str
    rows: list[tuple[int, ManifestRow]]
    rejects: list[Reject]

    @property
    def total(self) -> int:
        """How many rows the manifest has, good and bad."""
        return len(self.rows) + len(self.rejects)


def read_manifest(uri: str) -> ManifestRows:
    """Read a manifest (.csv, .jsonl or .parquet; local path or fsspec URL).

    Required columns are `audio` and `caption`, neither empty; `OPTIONAL_COLUMNS` may be there;
    others are ignored, with one logged line. Text stays verbatim; an integer in a text column
    counts as its digits. Of rows with one `track_id` the first is kept. CSV and JSONL are UTF-8.

    Raises `TdaError` where not a row but the file is at fault: missing, unknown suffix, not UTF-8,
    without a required column, without rows.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    ending = suffix(uri)
    if ending not in readers:
        raise TdaError(
            f"{uri}: cannot tell the manifest's format from the suffix {ending!r}; "
            f"name the file {', '.join(readers)} according to its content."
        )
    try:
        content = read_bytes(uri)
    except LocationError as error:
        raise TdaError(f"The manifest {uri} cannot be opened: {error}.") from error
    records = readers[ending](content, uri)
    _check_columns(records.columns, uri)
    return _validate(records, uri)


# ---------------------------------------------------------------- from bytes to records


@dataclass
class _Records:
    """A manifest taken apart, with values as the format gives them."""

    columns: list[str] = field(default_factory=list)
    values: list[tuple[int, dict[str, object]]] = field(default_factory=list)
    malformed: list[Reject] = field(default_factory=list)

    def reject(self, line: int, detail: str) -> None:
        self.malformed.append(Reject(line, RejectReason.MALFORMED_LINE, detail))


class _Cursor(Iterator[str]):
    """Physical lines for a `csv.reader`, which can be set back after a bad record."""

    def __init__(self, text: str) -> None:
        # newline="" splits at \n, \r and \r\n only; str.splitlines would split at U+2028 as well.
        self._lines = list(io.StringIO(text, newline=""))
        self.position = 0

    def __next__(self) -> str:
        if self.position >= len(self._lines):
            raise StopIteration
        self.position += 1
        return self._lines[self.position - 1]


def _read_csv(content: bytes, uri: str) -> _Records:
    cursor = _Cursor(_text(content, uri))
    reader = csv.reader(cursor, strict=True)
    try:
        header = [name.strip() for name in next((fields for fields in reader if fields), [])]
    except csv.Error as error:
        raise TdaError(f"{uri}: the header (line 1) is not valid CSV: {error}.") from error
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise TdaError(f"{uri}: the header names a column twice: {', '.join(repeated)}.")
    records = _Records(columns=[name for name in header if name])
    while True:
        start = cursor.position
        try:
            fields = next(reader, None)
        except csv.Error as error:
            records.reject(start + 1, f"the line is not valid CSV: {error}")
            cursor.position = start + 1  # an open quote may have swallowed good lines
            continue
        if fields is None:
            return records
        if not fields:
            continue
        if len(fields) != len(header):
            records.reject(
                start + 1, f"the line has {len(fields)} fields, the header has {len(header)}"
            )
            cursor.position = start + 1
            continue
        records.values.append((start + 1, dict(zip(header, fields, strict=True))))


def _read_jsonl(content: bytes, uri: str) -> _Records:
    records = _Records()
    columns: dict[str, None] = {}
    for line, text in enumerate(_text(content, uri).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            records.reject(line, f"the line is not valid JSON: {error}")
            continue
        if not isinstance(record, dict):
            records.reject(line, f"the line is {shown(record)}, not a JSON object")
            continue
        columns.update(dict.fromkeys(record))
        records.values.append((line, record))
    records.columns = list(columns)
    return records


def _read_parquet(content: bytes, uri: str) -> _Records:
    try:
        columns = list(pl.read_parquet_schema(io.BytesIO(content)))
        known = [name for name in columns if name in REQUIRED_COLUMNS + OPTIONAL_COLUMNS]
        table = pl.read_parquet(io.BytesIO(content), columns=known)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise TdaError(f"{uri} is not a readable Parquet file: {error}") from error
    return _Records(columns, list(enumerate(table.iter_rows(named=True), start=1)))


def _text(content: bytes, uri: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TdaError(
            f"{uri}: line {line} is not UTF-8 (byte {content[error.start]:#04x}); save the "
            "manifest as UTF-8, for example: iconv -f LATIN1 -t UTF-8 old.csv > new.csv"
        ) from error


def _check_columns(columns: list[str], uri: str) -> None:
    """Raise where a required column does not exist at all; say which columns are not used."""
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if columns and missing:
        hint = " Columns must be separated by commas." if len(columns) == 1 else ""
        raise TdaError(
            f"{uri}: the manifest has no column {' and no column '.join(map(repr, missing))}; "
            f"its columns are {', '.join(map(repr, columns))}.{hint}"
        )
    unknown = [name for name in columns if name not in REQUIRED_COLUMNS + OPTIONAL_COLUMNS]
    if unknown:
        _log.warning("%s: ignored columns: %s", uri, ", ".join(map(repr, unknown)))


# ---------------------------------------------------------------- from records to rows


class _BadValueError(Exception):
    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def _validate(records: _Records, uri: str) -> ManifestRows:
    rows: list[tuple[int, ManifestRow]] = []
    rejects = list(records.malformed)
    line_of: dict[str, int] = {}
    for line, record in records.values:
        try:
            row = _row(record)
            if (first := line_of.setdefault(row["track_id"], line)) != line:
                raise _BadValueError(RejectReason.DUPLICATE_ID, _duplicate(record, row, first))
        except _BadValueError as error:
            names = (_quotable(record.get("track_id")), _quotable(record.get("audio")))
            rejects.append(Reject(line, error.reason, str(error), *names))
        else:
            rows.append((line, row))
    if not rows and not rejects:
        raise TdaError(f"{uri}: the manifest has no rows.")
    return ManifestRows(uri, rows, sorted(rejects, key=lambda reject: reject.line))


def _row(record: dict[str, object]) -> ManifestRow:
    audio, caption = (_required(record, name) for name in REQUIRED_COLUMNS)
    stem = PurePosixPath(audio).stem
    track_id = _string(record, "track_id") or stem or audio
    split = _string(record, "split")
    if split is not None and split not in SPLITS:
        raise _BadValueError(
            RejectReason.WRONG_VALUE, f"split must be 'train' or 'heldout', but is {shown(split)}"
        )
    text = {name: _string(record, name) or default for name, default in _TEXT_DEFAULTS.items()}
    return ManifestRow(
        audio=audio,
        caption=caption,
        track_id=track_id,
        title=_string(record, "title") or track_id,
        artist=text["artist"],
        rightsholder=text["rightsholder"],
        composer=text["composer"],
        collection=text["collection"],
        key=text["key"],
        tempo_bpm=_tempo(record),
        instruments=text["instruments"],
        licence=text["licence"],
        version_of=_string(record, "version_of"),
        version_kind=_string(record, "version_kind"),
        split=split,
    )


def _string(record: dict[str, object], name: str) -> str | None:
    """Text of a column, or None where it is null or blank."""
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise _BadValueError(RejectReason.WRONG_TYPE, f"{name} must be text, but is {shown(value)}")
    if _quotable(value) is None:
        raise _BadValueError(
            RejectReason.WRONG_VALUE, f"{name} is not valid Unicode text: {shown(value)}"
        )
    return value if value.strip() else None


def _required(record: dict[str, object], name: str) -> str:
    value = _string(record, name)
    if value is None:
        raise _BadValueError(RejectReason.MISSING_VALUE, f"{name} is empty")
    return value


def _tempo(record: dict[str, object]) -> float | None:
    value = record.get("tempo_bpm")
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    wrong_type = _BadValueError(
        RejectReason.WRONG_TYPE, f"tempo_bpm must be a number, but is {shown(value)}"
    )
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise wrong_type
    try:
        tempo = float(value)
    except (ValueError, OverflowError):
        raise wrong_type from None
    if not math.isfinite(tempo) or tempo <= 0:
        raise _BadValueError(
            RejectReason.WRONG_VALUE, f"tempo_bpm must be a positive number, but is {shown(value)}"
        )
    return tempo


def _duplicate(record: dict[str, object], row: ManifestRow, first: int) -> str:
    derived = _string(record, "track_id") is None
    origin = " (from the file name; give a column track_id)" if derived else ""
    return f"track_id {shown(row['track_id'])}{origin} is already used on line {first}"


def _quotable(value: object) -> str | None:
    """`value` if it is text that UTF-8 can hold (JSON lets lone surrogates through), else None."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value
