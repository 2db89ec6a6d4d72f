"""The audio files of a manifest as bytes: have they changed, and what are they.

What belongs here: a cheap stamp that changes when a file does, and the digests that say what the
files are. Neither decodes anything.
"""

import hashlib
from collections.abc import Callable

import fsspec
import polars as pl

from tda_dagster.corpus.location import LocationError, read_bytes, resolve
from tda_dagster.corpus.manifest import read_manifest


def audio_stamp(manifest: str) -> str:
    """sha256 over the manifest's bytes and each audio file's size and time (or etag) of change."""
    stamp = hashlib.sha256(read_bytes(manifest))
    for uri in _audio_files(manifest):
        filesystem, path = fsspec.url_to_fs(resolve(manifest, uri))
        try:
            info = filesystem.info(path)
        except OSError:
            info = {}
        known = {k: info.get(k) for k in ("size", "mtime", "ETag", "LastModified")}
        stamp.update(f"{uri}\x1f{known}\n".encode())
    return stamp.hexdigest()


def audio_digests(manifest: str, progress: Callable[[int, int], None]) -> pl.DataFrame:
    """Columns `audio` (as in the manifest) and `audio_sha256` (null for a file that cannot be
    read: the index will say why), sorted."""
    files = _audio_files(manifest)
    digests: list[str | None] = []
    for number, uri in enumerate(files):
        try:
            content = read_bytes(resolve(manifest, uri))
            digests.append(hashlib.sha256(content).hexdigest())
        except LocationError:
            digests.append(None)
        progress(number + 1, len(files))
    return pl.DataFrame(
        {"audio": files, "audio_sha256": digests},
        schema={"audio": pl.String, "audio_sha256": pl.String},
    )


def _audio_files(manifest: str) -> list[str]:
    return sorted({row["audio"] for _, row in read_manifest(manifest).rows})
