"""The audio files of a manifest as bytes: have they changed, and what are they.

What belongs here: a cheap look at each file that changes when the file does, and the digests that
say what the files are. Neither decodes anything.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from tda_dagster.corpus.location import LocationError, look, read_bytes, resolve
from tda_dagster.corpus.manifest import manifest_bytes, read_manifest
from tda_dagster.corpus.outages import Outages
from tda_dagster.object_storage import TRANSFERS, ObjectStorageError, side_by_side


def audio_looks(manifest: str) -> dict[str, str | None]:
    """Each audio file of a manifest (path or URL), sorted, with what it looks like without being
    read: size, time of change, tag, and whether it may be read. None for a file that is not there
    or cannot be reached.

    Raises `TdaError` for a manifest that cannot be read, and `ObjectStorageError` where not a file
    but the object store cannot be reached.
    """
    audio = sorted({row["audio"] for _, row in read_manifest(manifest).rows})
    outages = Outages()

    def looked_at(name: str) -> str | None:
        try:
            found = _look(resolve(manifest, name))
        except (OSError, LocationError):
            found = None
        except ObjectStorageError as error:
            if error.may_pass:
                outages.tolerate(error)
            return None
        outages.over()
        return found

    return dict(zip(audio, side_by_side(looked_at, audio, TRANSFERS), strict=True))


def audio_stamp(manifest: str, looks: Mapping[str, str | None]) -> str:
    """sha256 over the manifest's bytes and the looks of its audio files (`audio_looks`)."""
    stamp = hashlib.sha256(manifest_bytes(manifest))
    for name, seen in looks.items():
        stamp.update(f"{name}\x1f{seen}\n".encode())
    return stamp.hexdigest()


def audio_digests(manifest: str, audio: Sequence[str]) -> dict[str, str]:
    """The sha256 of those of the files `audio` of a manifest that can be read now.

    Raises `ObjectStorageError` where not a file but the object store cannot be reached.
    """
    outages = Outages()

    def digest(name: str) -> str | None:
        try:
            found = hashlib.sha256(read_bytes(resolve(manifest, name))).hexdigest()
        except LocationError:
            return None
        except ObjectStorageError as error:
            outages.tolerate(error)
            return None
        outages.over()
        return found

    digests = zip(audio, side_by_side(digest, audio, TRANSFERS), strict=True)
    return {name: digest for name, digest in digests if digest is not None}


def digests_table(audio: Iterable[str], digests: Mapping[str, str]) -> pl.DataFrame:
    """Columns `audio` and `audio_sha256` (null for a file that could not be read: the index says
    why), sorted."""
    names = sorted(audio)
    return pl.DataFrame(
        {"audio": names, "audio_sha256": [digests.get(name) for name in names]},
        schema={"audio": pl.String, "audio_sha256": pl.String},
    )


def _look(uri: str) -> str:
    known = look(uri)
    # Giving access to a local file does not change its time. To a URL this answers "no".
    known["readable"] = os.access(uri, os.R_OK)
    return str(known)
