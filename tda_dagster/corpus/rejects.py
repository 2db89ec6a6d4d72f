"""What is wrong with a row of a manifest, and when too much is wrong.

Belongs here: the reason codes, the `rejects` table and the error that stops a run. Does not
belong here: finding the faults (manifest.py reads rows, audio.py decodes files, index.py measures).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import polars as pl

from tda_dagster.errors import TdaError
from tda_dagster.masking import masked
from tda_dagster.quoting import shown as shown  # details quote values with it

REJECTS_SCHEMA = pl.Schema(
    {
        "line": pl.Int64,
        "track_id": pl.String,
        "audio": pl.String,
        "reason": pl.String,
        "detail": pl.String,
    }
)

_SHOWN_IN_ERROR = 5  # of each reason


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
    IMPLAUSIBLE = "implausible"
    """A sample rate or a peak that no recording has."""
    TOO_LONG = "too_long"
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
    """More of the manifest's rows are bad than the user allows; `rejects` holds all those found.

    The message has the counts, some rows for each reason and, if given, the file where all are
    `listed`.
    """

    def __init__(
        self,
        manifest: str,
        rejects: Sequence[Reject],
        rows: int,
        max_reject_fraction: float,
        listed: Path | None = None,
    ) -> None:
        self.manifest, self.rows, self.max_reject_fraction = manifest, rows, max_reject_fraction
        self.rejects = tuple(sorted(rejects, key=lambda reject: reject.line))
        of_reason: dict[str, list[Reject]] = {}
        for reject in self.rejects:
            of_reason.setdefault(reject.reason.value, []).append(reject)
        counts = ", ".join(f"{reason}: {len(of)}" for reason, of in sorted(of_reason.items()))
        lines = [
            f"{manifest}: {len(self.rejects)} of {rows} rows were rejected, more than "
            f"max_reject_fraction = {max_reject_fraction:g} allows ({counts})."
        ]
        for reason, found in of_reason.items():
            lines += [f"  line {r.line}: {reason}: {r.detail}" for r in found[:_SHOWN_IN_ERROR]]
            if len(found) > _SHOWN_IN_ERROR:
                lines.append(f"  ... and {len(found) - _SHOWN_IN_ERROR} more: {reason}")
        if listed is not None:
            lines.append(f"All of them are listed in {listed}.")
        lines.append(
            "Mend these rows or their files, or raise max_reject_fraction to go on without them."
        )
        super().__init__("\n".join(lines))


@contextmanager
def rejects_listed(path: Path) -> Iterator[None]:
    """Within the block, write all rejects of a `TooManyRejects` to the CSV file at `path` and raise
    the error with that file in its message; remove the file if there is no such error."""
    try:
        yield
    except TooManyRejects as error:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            rejects_table(error.rejects).write_csv(path)
        except OSError:  # a full disk: what is wrong with the manifest matters more
            raise error from None
        raise TooManyRejects(
            error.manifest, error.rejects, error.rows, error.max_reject_fraction, path
        ) from None
    path.unlink(missing_ok=True)


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
