"""Telling a file that cannot be had just now from an object store that cannot be used at all.

What belongs here: that decision. One file may be out of reach without stopping a run; when a whole
object store is, trying every file would take hours.
"""

import threading

from tda_dagster.object_storage import ObjectStorageError

MOST_IN_A_ROW = 3


class Outages:
    """Counts failures of an object store, one after the other; may be shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_a_row = 0

    def tolerate(self, error: ObjectStorageError) -> None:
        """Take note of a failure. Raises it if it is the `MOST_IN_A_ROW`th without a success."""
        with self._lock:
            self._in_a_row += 1
            if self._in_a_row >= MOST_IN_A_ROW:
                raise error

    def over(self) -> None:
        """Take note of a success."""
        with self._lock:
            self._in_a_row = 0
