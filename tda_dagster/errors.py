"""Errors that a user can cause, and mend: each names the file, row or setting at fault."""


class TdaError(Exception):
    """Base of every error whose message is written for the user rather than the developer."""


class SettingsError(TdaError):
    """Settings that are missing, unknown, or out of range."""
