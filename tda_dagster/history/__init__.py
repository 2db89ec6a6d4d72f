"""What was, and why it is otherwise now: lineage of scores, differences between two states of a
study, and the warehouse as of a snapshot. Reads stores; writes nothing to them.
"""

from tda_dagster.errors import TdaError

__all__ = ["HistoryError"]


class HistoryError(TdaError):
    """A question about the past that cannot be answered."""
