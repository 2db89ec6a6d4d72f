"""The file formats of a manifest: CSV, JSONL and Parquet taken apart into records.

Belongs here: lines and columns, what a malformed line is, and limits on what a file may unpack to.
What a value means is said in manifest_values.py, which columns there are in manifest.py.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tda_dagster.corpus.rejects import Reject, RejectReason
from tda_dagster.errors import TdaError
from tda_dagster.quoting import brief, named, shown
from tda_dagster.text_files import decoded

_MOST_ROWS = 1_000_000
_MOST_VALUES = 50_000_000
_MOST_BYTES = 1_000_000_000
_MOST_DIGITS = 1_000
_SHOWN_NAMES = 12
_LONGEST_HEADER = 100_000
_OTHER_SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars"}


@dataclass
class Records:
    """A manifest taken apart, with values as the format gives them; `manifest` is its name in
    messages. Columns `left_out` are not in the values: they hold bytes."""

    manifest: str
    columns: list[str] = field(default_factory=list)
    values: list[tuple[int, dict[str, object]]] = field(default_factory=list)
    malformed: list[Reject] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, line: int, record: dict[str, object]) -> None:
        self.values.append((line, record))
        self._check_rows()

    def reject(self, line: int, detail: str) -> None:
        self.malformed.append(Reject(line, RejectReason.MALFORMED_LINE, detail))
        self._check_rows()

    def _check_rows(self) -> None:
        if len(self.values) + len(self.malformed) > _MOST_ROWS:
            raise TdaError(f"{self.manifest}: a manifest has at most {_MOST_ROWS:,} rows.")


# ---------------------------------------------------------------- CSV


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


def read_csv(content: bytes, manifest: str, required: Collection[str]) -> Records:
    """Return the records of a UTF-8 CSV file with a header, separated by commas.

    Raises `TdaError` for another encoding, another separator and a header that names a column
    twice. A column without a name is called after its place ("column 3").
    """
    text = decoded(content, manifest, "the manifest")
    cursor = _Cursor(text)
    reader = csv.reader(cursor, strict=True)
    try:
        header = [name.strip() for name in next((fields for fields in reader if fields), [])]
    except csv.Error as error:
        _check_separator(text, manifest, required)
        raise TdaError(f"{manifest}: the header (line 1) is not valid CSV: {error}.") from error
    if not set(required) <= set(header):
        _check_separator(text, manifest, required)
    header = [name or f"column {place}" for place, name in enumerate(header, start=1)]
    repeated = sorted(name for name, count in Counter(header).items() if count > 1)
    if repeated:
        raise TdaError(f"{manifest}: the header names a column twice: {_names(repeated)}.")
    records = Records(manifest, columns=header)
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
        # Fields that are not given take no room: a manifest may have 100,000 columns.
        named = zip(header, fields, strict=True)
        records.add(start + 1, {name: value for name, value in named if value})


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES:,} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(map(named, names[:_SHOWN_NAMES])) + more


def _check_separator(text: str, manifest: str, required: Collection[str]) -> None:
    """Raise if the header has the required columns with another separator."""
    header = text.lstrip().partition("\n")[0][:_LONGEST_HEADER]
    for separator, name in _OTHER_SEPARATORS.items():
        if set(required) <= {column.strip(' "\r') for column in header.split(separator)}:
            raise TdaError(
                f"{manifest}: columns must be separated by commas, but are separated by {name} "
                "here; save it as CSV with commas (in Excel: 'CSV UTF-8 (comma delimited)')."
            )


# ---------------------------------------------------------------- JSONL


def read_jsonl(content: bytes, manifest: str) -> Records:
    """Return the records of a UTF-8 file with a JSON object per line.

    NaN and Infinity are read as Python writes them. An object that has a key twice is malformed.
    """
    records = Records(manifest)
    columns: dict[str, None] = {}
    text = decoded(content, manifest, "the manifest")
    for line, written in enumerate(text.split("\n"), start=1):
        if not written.strip():
            continue
        try:
            record = json.loads(written, parse_int=_integer, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            detail = f"{error.msg} at column {error.colno}"
            records.reject(line, f"the line is not valid JSON: {detail}")
            continue
        except RecursionError:
            records.reject(line, "the line is not valid JSON: it is nested too deeply")
            continue
        except ValueError as error:
            records.reject(line, f"the line is not valid JSON: {brief(error)}")
            continue
        if not isinstance(record, dict):
            records.reject(line, f"the line is {shown(record)}, not a JSON object")
            continue
        columns.update(dict.fromkeys(record))
        records.add(line, record)
    records.columns = list(columns)
    if not records.values and text.lstrip().startswith("["):
        raise TdaError(
            f"{manifest}: the file is one JSON array; JSONL has an object per line, for example "
            "from: jq -c '.[]' old.json > new.jsonl"
        )
    return records


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for name, count in Counter(n for n, _ in pairs).items() if count > 1)
        raise ValueError(f"it has the key {shown(name)} twice")
    return found


# ---------------------------------------------------------------- Parquet


def read_parquet(content: bytes, manifest: str, known: Collection[str]) -> Records:
    """Return the records of a Parquet file, without columns of bytes that are not `known` ones.

    Raises `TdaError` for a file that is not Parquet and, before it is unpacked, for one of more
    than 1,000,000 rows, 50,000,000 values or 1 GB.
    """
    try:
        metadata = pq.ParquetFile(io.BytesIO(content)).metadata
        schema = pl.read_parquet_schema(io.BytesIO(content))
        left_out = [
            name
            for name, kind in schema.items()
            if isinstance(kind, pl.Binary) and name not in known
        ]
        _check_size(metadata, left_out, manifest)
        wanted = [name for name in schema if name not in left_out]
        table = pl.read_parquet(io.BytesIO(content), columns=wanted)
        texts = sum(_text_bytes(column) for column in table)
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        pa.ArrowException,
        OSError,
        UnicodeDecodeError,
    ) as error:
        raise TdaError(f"{manifest} is not a readable Parquet file: {brief(error)}") from error
    if texts > _MOST_BYTES:
        raise _too_large(f"its text is {texts / 1e9:.1f} GB long", manifest)
    records = Records(manifest, columns=wanted, left_out=left_out)
    for row, record in enumerate(table.iter_rows(named=True), start=1):
        records.add(row, record)
    return records


def _check_size(metadata: pq.FileMetaData, left_out: Collection[str], manifest: str) -> None:
    if metadata.num_rows > _MOST_ROWS:
        raise _too_large(f"it has {metadata.num_rows:,} rows", manifest)
    values = unpacked = 0
    not_read = set(left_out)
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            column = metadata.row_group(group).column(place)
            if column.path_in_schema not in not_read:
                values += column.num_values
                unpacked += column.total_uncompressed_size
    if values > _MOST_VALUES:
        raise _too_large(f"it has {values:,} values", manifest)
    if unpacked > _MOST_BYTES:
        raise _too_large(f"it unpacks to {unpacked / 1e9:.1f} GB", manifest)


def _too_large(what: str, manifest: str) -> TdaError:
    return TdaError(
        f"{manifest}: {what}; a manifest has at most {_MOST_ROWS:,} rows, {_MOST_VALUES:,} values "
        f"and {_MOST_BYTES / 1e9:g} GB: it lists audio files, and does not hold them."
    )


def _text_bytes(column: pl.Series) -> int:
    """Bytes of all text of a column. Equal text is stored once in Parquet and in memory, but not
    in the rows that are made of it."""
    kind = column.dtype
    if isinstance(kind, pl.String):
        return int(column.str.len_bytes().cast(pl.UInt64).sum())
    if isinstance(kind, pl.Binary):
        return int(column.bin.size().cast(pl.UInt64).sum())
    if isinstance(kind, pl.Categorical | pl.Enum):
        return _text_bytes(column.cast(pl.String))
    if isinstance(kind, pl.List | pl.Array):
        return _text_bytes(column.explode())
    if isinstance(kind, pl.Struct):
        return sum(_text_bytes(part) for part in column.struct.unnest())
    return 0
