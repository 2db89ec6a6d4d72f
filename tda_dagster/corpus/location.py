"""Where the files of a dataset lie: local paths and every URL that fsspec knows.

Belongs here: telling paths from URLs, resolving an audio path against its manifest, reading bytes.
"""

import re
from pathlib import Path

from tda_dagster.errors import TdaError
from tda_dagster.object_storage import ObjectStorageError, open_url

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(://|::.*://)", re.DOTALL)


class LocationError(TdaError):
    """The bytes at a location cannot be had; `missing` tells whether there is nothing there.

    The message is a sentence without the location: a table that quotes it must read the same on
    every machine, so whoever raises further names the file in the user's own words.
    """

    def __init__(self, message: str, *, missing: bool) -> None:
        super().__init__(message)
        self.missing = missing


def resolve(manifest: str, audio: str) -> str:
    """Where the file `audio` of a manifest is: a relative path starts at the manifest's folder.

    Absolute paths and URLs stand for themselves. In a chained URL (`zip://m.csv::s3://b/a.zip`)
    the path that is replaced is the manifest's own, the first one.
    """
    if _URL.match(audio) or Path(audio).is_absolute():
        return audio
    if not _URL.match(manifest):
        return str(Path(manifest).parent / audio)
    links = manifest.split("::")
    own = next(position for position, link in enumerate(links) if "://" in link)
    links[own] = f"{links[own].rpartition('/')[0]}/{audio}"
    return "::".join(links)


def read_bytes(uri: str) -> bytes:
    """All bytes of a local file or fsspec URL.

    Raises `LocationError`, and `ObjectStorageError` where that says nothing about the file, because
    the same might succeed later.
    """
    try:
        if not _URL.match(uri):
            return Path(uri).read_bytes()
        files, path = open_url(uri)
        return files.read(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LocationError("there is no such file", missing=True) from error
    except IsADirectoryError as error:
        raise LocationError("it is a folder, not a file", missing=True) from error
    except ObjectStorageError as error:
        if error.may_pass:
            raise
        raise LocationError(error.reason, missing=False) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LocationError(f"it cannot be read: {reason}", missing=False) from error
    except Exception as error:  # fsspec drivers are third parties: they raise what they like
        reason = f"{type(error).__name__}: {error}"
        raise LocationError(f"it cannot be read: {reason}", missing=False) from error
