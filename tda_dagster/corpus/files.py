"""The audio files of a manifest as bytes: have they changed, and what are they.

What belongs here: a cheap stamp that changes when a file does, and the digests that say what the
files are. Neither decodes anything.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import polars as pl

from tda_dagster.corpus.location import STAMP_KEYS, LocationError, look, read_bytes, resolve
from tda_dagster.corpus.manifest import manifest_bytes, read_manifest
from tda_dagster.object_storage import TRANSFERS, side_by_side


def audio_stamp(manifest: str) -> str:
    """sha256 over the manifest's bytes and each audio file's size and time (or etag) of change.

    Raises `TdaError` for a manifest that cannot be read, and `ObjectStorageError` while an object
    store cannot be asked.
    """
    stamp = hashlib.sha256(manifest_bytes(manifest))
    audio = _audio_files(manifest)
    looks = side_by_side(lambda uri: _look(resolve(manifest, uri)), audio, TRANSFERS)
    for uri, known in zip(audio, looks, strict=True):
        stamp.update(f"{uri}\x1f{known}\n".encode())
    return stamp.hexdigest()


def audio_digests(manifest: str, progress: Callable[[int, int], None]) -> pl.DataFrame:
    """Columns `audio` (as in the manifest) and `audio_sha256` (null for a file that cannot be
    read: the index will say why), sorted.

    Raises `ObjectStorageError` while an object store cannot be asked.
    """
    files = _audio_files(manifest)
    digests: list[str | None] = []
    for digest in side_by_side(lambda uri: _digest(resolve(manifest, uri)), files, TRANSFERS):
        digests.append(digest)
        progress(len(digests), len(files))
    return pl.DataFrame(
        {"audio": files, "audio_sha256": digests},
        schema={"audio": pl.String, "audio_sha256": pl.String},
    )


def _look(uri: str) -> dict[str, Any]:
    try:
        return look(uri)
    except LocationError:
        return dict.fromkeys(STAMP_KEYS)


def _digest(uri: str) -> str | None:
    try:
        return hashlib.sha256(read_bytes(uri)).hexdigest()
    except LocationError:
        return None


def _audio_files(manifest: str) -> list[str]:
    return sorted({row["audio"] for _, row in read_manifest(manifest).rows})
