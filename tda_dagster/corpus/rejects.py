"""What is wrong with a row of a manifest, and when too much is wrong.

Belongs here: the reason codes, the `rejects` table and the error that stops a run. Does not
belong here: finding the faults (manifest.py reads rows, audio.py decodes files, index.py measures).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import polars as pl

from tda_dagster.errors import TdaError
from tda_dagster.masking import masked

REJECTS_SCHEMA = pl.Schema(
    {
        "line": pl.Int64,
        "track_id": pl.String,
        "audio": pl.String,
        "reason": pl.String,
        "detail": pl.String,
    }
)

_SHOWN_IN_ERROR = 5
_SHOWN_LENGTH = 80


class RejectReason(StrEnum):
    """Why a row was rejected; the value is the code in the `rejects` table."""

    MALFORMED_LINE = "malformed_line"
    MISSING_VALUE = "missing_value"
    WRONG_TYPE = "wrong_type"
    WRONG_VALUE = "wrong_value"
    DUPLICATE_ID = "duplicate_id"
    MISSING_FILE = "missing_file"
    UNREADABLE = "unreadable"
    NOT_FINITE = "not_finite"
    TOO_SHORT = "too_short"
    SILENT = "silent"
    UNKNOWN_VERSION_OF = "unknown_version_of"
    """The one code whose row is kept: only its `version_of` and `version_kind` are dropped."""
    TAKEN_DOWN = "taken_down"
    """Nothing is wrong with the row: the settings leave its track out."""


@dataclass(frozen=True)
class Reject:
    """One row of `rejects`; `line` is the line (Parquet: row) of the manifest, counted from 1."""

    line: int
    reason: RejectReason
    detail: str
    track_id: str | None = None
    audio: str | None = None


class TooManyRejects(TdaError):
    """More of the manifest's rows are bad than the user allows; `rejects` holds those found."""

    def __init__(
        self, manifest: str, rejects: Sequence[Reject], rows: int, max_reject_fraction: float
    ) -> None:
        self.rejects = tuple(rejects)
        counts = Counter(reject.reason.value for reject in rejects)
        lines = [
            f"{manifest}: {len(rejects)} of {rows} rows were rejected before indexing stopped, "
            f"more than max_reject_fraction = {max_reject_fraction:g} allows "
            f"({', '.join(f'{reason}: {count}' for reason, count in sorted(counts.items()))})."
        ]
        for reject in rejects[:_SHOWN_IN_ERROR]:
            lines.append(f"  line {reject.line}: {reject.reason.value}: {reject.detail}")
        if len(rejects) > _SHOWN_IN_ERROR:
            lines.append(f"  ... and {len(rejects) - _SHOWN_IN_ERROR} more")
        lines.append(
            "Mend these rows or their files, or raise max_reject_fraction to go on without them."
        )
        super().__init__("\n".join(lines))


def rejects_table(rejects: Sequence[Reject]) -> pl.DataFrame:
    """The `rejects` table, sorted by line; secrets inside URLs are masked."""
    ordered = sorted(rejects, key=lambda reject: reject.line)
    return pl.DataFrame(
        {
            "line": [reject.line for reject in ordered],
            "track_id": [reject.track_id for reject in ordered],
            "audio": [reject.audio and masked(reject.audio) for reject in ordered],
            "reason": [reject.reason.value for reject in ordered],
            "detail": [masked(reject.detail) for reject in ordered],
        },
        schema=REJECTS_SCHEMA,
    )


def shown(value: object) -> str:
    """`value` as it may stand in a sentence: quoted, escaped and not longer than a line."""
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."
