"""Errors that a user can cause, and mend: each names the file, row or setting at fault."""

from tda_dagster.masking import masked


class TdaError(Exception):
    """Base of every error whose message is written for the user rather than the developer.

    Secrets inside URLs that a message quotes are masked.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(masked(a) if isinstance(a, str) else a for a in arguments))


class SettingsError(TdaError):
    """Settings that are missing, unknown, or out of range."""
