"""Small JSON records that say themselves whether they are whole.

What belongs here: sealing a record with a checksum, and reading records from a place so that one
that was damaged on the way is read again.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from tda_dagster.store.canonical import canonical_json, digest_of
from tda_dagster.store.errors import CorruptRecord
from tda_dagster.store.places import Place

_CHECKSUM = "checksum"

Record = TypeVar("Record")


def sealed(record: Mapping[str, Any]) -> bytes:
    """The canonical JSON of `record` with a checksum of all its fields."""
    return canonical_json({**record, _CHECKSUM: digest_of(canonical_json(record))})


def unsealed(data: bytes) -> dict[str, Any]:
    """The record that `sealed` wrote, without its checksum; one without any is taken as it is.

    Raises ValueError if the bytes are no record or not those that were written.
    """
    try:
        record = json.loads(data)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    checksum = record.pop(_CHECKSUM, None)
    if checksum is not None and data != sealed(record):
        raise ValueError("its checksum does not fit its content")
    return record


def read_records(
    place: Place, names: Iterable[str], parse: Callable[[str, bytes], Record | CorruptRecord]
) -> dict[str, Record | CorruptRecord]:
    """What `parse` makes of each of `names` that exists, in the order given.

    A record that comes out damaged is read again as often as the place's bytes deserve
    (`Place.readings`): bytes may change on their way.
    """
    found = {name: parse(name, data) for name, data in place.read_many(names).items()}
    for _ in range(place.readings - 1):
        damaged = [name for name, record in found.items() if isinstance(record, CorruptRecord)]
        if not damaged:
            break
        again = place.read_many(damaged)
        for name in damaged:
            if name in again:
                found[name] = parse(name, again[name])
            else:
                del found[name]
    return found
