"""A user's manifest: the list of audio files with captions and metadata that makes a dataset.

Belongs here: the columns a manifest may have, their types and defaults, and rows that are valid as
far as can be told without opening the audio. Formats are taken apart in manifest_files.py, values
in manifest_values.py.
"""

import difflib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TypedDict

from tda_dagster.corpus.location import LocationError, read_bytes, suffix
from tda_dagster.corpus.manifest_files import Records, read_csv, read_jsonl, read_parquet
from tda_dagster.corpus.manifest_values import (
    BadValueError,
    choice,
    extra,
    is_missing_word,
    positive,
    text,
)
from tda_dagster.corpus.rejects import Reject, RejectReason, shown
from tda_dagster.errors import TdaError
from tda_dagster.quoting import listed, named

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
_KNOWN = REQUIRED_COLUMNS + OPTIONAL_COLUMNS
_FREE_TEXT = ("artist", "rightsholder", "composer", "collection", "title")
"""Columns that people are named or summed by."""
_LOOKED_AT = 100
_LONGEST_NAME = 1_000
_OTHER_NAMES = {"bpm": "tempo_bpm", "tempo": "tempo_bpm", "license": "licence", "id": "track_id"}
_SUFFIXES = (".csv", ".jsonl", ".parquet")


class ManifestRow(TypedDict):
    """One valid row: every column present, defaults filled in, `audio` as the manifest has it.
    `extra` is a JSON object of strings: the manifest's other columns."""

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
    extra: str


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
    others are kept as `extra`. Text stays verbatim; of other values in a text column, whole numbers
    count as their digits (101.0 is "101") and dates have their ISO form. Null, NaN and blank text
    count as missing in every column. Words such as nan, NA and null count as missing in `tempo_bpm`
    and `split`; in columns of text they are text, since they may be names, and a warning is logged.
    A `version_of` that no track has is understood as missing if it is such a word, and as the
    whole number if it is a whole float ("101.0" for the track "101"). Of rows with one `track_id`
    the first is kept. CSV and JSONL are UTF-8.

    Raises `TdaError` where not a row but the file is at fault: missing, unknown suffix, not UTF-8,
    without a required column, without rows, too large.
    """
    name, ending = named(uri, _LONGEST_NAME), manifest_suffix(uri)
    content = manifest_bytes(uri)
    if ending == ".csv":
        records = read_csv(content, name, REQUIRED_COLUMNS)
    elif ending == ".jsonl":
        records = read_jsonl(content, name)
    else:
        records = read_parquet(content, name, _KNOWN)
    _check_columns(records.columns, name)
    return _validate(records, uri)


def manifest_bytes(uri: str) -> bytes:
    """Return all bytes of a manifest. Raises `TdaError` that names it where they cannot be had."""
    try:
        return read_bytes(uri)
    except LocationError as error:
        raise TdaError(
            f"The manifest {named(uri, _LONGEST_NAME)} cannot be opened: {error}. "
            "The setting dataset.manifest must name a CSV, JSONL or Parquet file."
        ) from error


def manifest_suffix(uri: str) -> str:
    """Return the suffix that tells a manifest's format; raises `TdaError` for any other."""
    ending = suffix(uri)
    if ending not in _SUFFIXES:
        raise TdaError(
            f"{named(uri, _LONGEST_NAME)}: cannot tell the manifest's format from the suffix "
            f"{shown(ending)}; name the file {', '.join(_SUFFIXES)} according to its content."
        )
    return ending


def _check_columns(columns: Sequence[str], manifest: str) -> None:
    """Raise where a required column does not exist at all; say which other columns may be meant
    for one of those that exist."""
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if columns and missing:
        raise TdaError(
            f"{manifest}: the manifest has no column {' and no column '.join(map(repr, missing))}; "
            f"its columns are {listed(columns)}."
        )
    absent = [name for name in OPTIONAL_COLUMNS if name not in columns]
    for name in columns[:_LOOKED_AT]:
        if name in _KNOWN:
            continue
        name_as_ours = _OTHER_NAMES.get(name.strip().lower(), name.strip().lower())
        alike = difflib.get_close_matches(name_as_ours, absent, n=1, cutoff=0.85)
        if alike:
            _warn(
                f"{manifest}: column {shown(name)} is not {alike[0]!r}, which is missing; rename "
                "it if that is meant"
            )


@lru_cache(maxsize=1_000)
def _warn(message: str) -> None:
    """Log a warning once: a run reads its manifest several times."""
    _log.warning("%s", message)


# ---------------------------------------------------------------- from records to rows


def _validate(records: Records, uri: str) -> ManifestRows:
    manifest = records.manifest
    others = [name for name in records.columns if name not in _KNOWN]
    rows: list[tuple[int, ManifestRow]] = []
    rejects = list(records.malformed)
    line_of: dict[str, int] = {}
    words: Counter[str] = Counter()
    for line, record in records.values:
        try:
            row = _row(record)
            if (first := line_of.setdefault(row["track_id"], line)) != line:
                raise BadValueError(RejectReason.DUPLICATE_ID, _duplicate(record, row, first))
        except BadValueError as error:
            names = (_text_if_good(record, name) for name in ("track_id", "audio"))
            rejects.append(Reject(line, error.reason, str(error), *names))
        else:
            rows.append((line, row))
            words.update(name for name in _FREE_TEXT if is_missing_word(record.get(name)))
    if not rows and not rejects:
        raise TdaError(f"{manifest}: the manifest has no rows.")
    for _, row in rows:
        row["version_of"] = _original(row["version_of"], line_of)
    for name, count in sorted(words.items()):
        _warn(
            f"{manifest}: column {name}: {count} values are words such as nan, NA or null and are "
            "kept as text; leave the field empty where nothing is known"
        )
    if records.left_out:
        _warn(f"{manifest}: columns that hold bytes are not kept: {listed(records.left_out)}")
    if others:
        _log.info("%s: other columns, kept in `extra`: %s", manifest, listed(others))
    return ManifestRows(uri, rows, sorted(rejects, key=lambda reject: reject.line))


def _row(record: dict[str, object]) -> ManifestRow:
    audio, caption = (_required(record, name) for name in REQUIRED_COLUMNS)
    stem = PurePosixPath(audio).stem
    track_id = text(record, "track_id") or stem or audio
    found = {name: text(record, name) or default for name, default in _TEXT_DEFAULTS.items()}
    return ManifestRow(
        audio=audio,
        caption=caption,
        track_id=track_id,
        title=text(record, "title") or track_id,
        artist=found["artist"],
        rightsholder=found["rightsholder"],
        composer=found["composer"],
        collection=found["collection"],
        key=found["key"],
        tempo_bpm=positive(record, "tempo_bpm"),
        instruments=found["instruments"],
        licence=found["licence"],
        version_of=text(record, "version_of"),
        version_kind=text(record, "version_kind"),
        split=choice(record, "split", SPLITS),
        extra=extra(record, _KNOWN),
    )


def _text_if_good(record: dict[str, object], name: str) -> str | None:
    try:
        return text(record, name)
    except BadValueError:
        return None


def _required(record: dict[str, object], name: str) -> str:
    value = text(record, name)
    if value is None:
        raise BadValueError(RejectReason.MISSING_VALUE, f"{name} is empty")
    return value


def _original(version_of: str | None, ids: dict[str, int]) -> str | None:
    """The id that `version_of` means: a CSV file with missing values has 101.0 for 101."""
    if version_of is None or version_of in ids:
        return version_of
    whole = re.fullmatch(r"([0-9]+)\.0", version_of)
    if whole and whole[1] in ids:
        return whole[1]
    return None if is_missing_word(version_of) else version_of


def _duplicate(record: dict[str, object], row: ManifestRow, first: int) -> str:
    derived = text(record, "track_id") is None
    origin = " (from the file name; give a column track_id)" if derived else ""
    return f"track_id {shown(row['track_id'])}{origin} is already used on line {first}"
