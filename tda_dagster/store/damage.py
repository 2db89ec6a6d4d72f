"""Which blobs were found damaged, noted in the store until they are whole again.

A note lies at `damaged/<digest>.json`. It makes nothing unreadable and removes nothing: an artifact
that needs a noted blob is made again instead of being found, and putting the blob again replaces
it, whatever its size.
"""

import math
import time
from contextlib import suppress
from datetime import UTC, datetime
from threading import Lock

from tda_dagster.errors import TdaError
from tda_dagster.store.canonical import canonical_json
from tda_dagster.store.places import Place

FOLDER = "damaged"


class DamageNotes:
    """The notes of a store, listed again when the last list is older than the place's `fresh_s`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._digests: set[str] = set()
        self._listed = -math.inf
        self._looking = Lock()

    def __contains__(self, digest: str) -> bool:
        return digest in self._noted()

    def add(self, digest: str, found: str) -> None:
        """Note that the blob held other bytes than its own; `found` says which."""
        if digest in self._noted():
            return
        self._noted().add(digest)
        noticed = datetime.now(UTC).isoformat(timespec="seconds")
        with suppress(TdaError, OSError):  # who may only read tells it all the same
            self._place.write(
                _name(digest), canonical_json({"found": found, "noticed_at": noticed})
            )

    def clear(self, digest: str) -> None:
        """Forget a note, if there is one: the blob is whole, or gone."""
        if digest in self._noted():
            self._noted().discard(digest)
            with suppress(TdaError, OSError):
                self._place.remove(_name(digest))

    def _noted(self) -> set[str]:
        with self._looking:
            if time.monotonic() - self._listed >= self._place.fresh_s:
                names = self._place.names(FOLDER)
                self._digests = {n.rpartition("/")[2].removesuffix(".json") for n in names}
                self._listed = time.monotonic()
            return self._digests


def _name(digest: str) -> str:
    return f"{FOLDER}/{digest}.json"
