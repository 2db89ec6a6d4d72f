"""Where the files of a dataset lie: local paths and every URL that fsspec knows.

Belongs here: telling paths from URLs, resolving an audio path against its manifest, reading bytes,
and a cheap look at a file. Whoever reads or looks finds the same file: the rules for names apply
to all (see `names`).
"""

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote

from fsspec.implementations.local import LocalFileSystem

from tda_dagster.corpus import names, web
from tda_dagster.errors import TdaError
from tda_dagster.object_storage import ObjectStorageError, RemoteFiles, open_url, redacted

MOST_BYTES = 4 << 30
"""The largest file that is read: it is held in memory. As 24-bit stereo WAV, 4.5 h at 44.1 kHz."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(://|::.*://)", re.DOTALL)
_LOCAL = ("file://", "local://")
_PORTS = {"ftp": 21, "sftp": 22, "ssh": 22, "smb": 445, "http": 80, "https": 443}
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
_PATIENCE_S = 8.0  # with servers that hold single files and no studies
STAMP_KEYS = ("size", "mtime", "ETag", "LastModified")

_Result = TypeVar("_Result")


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
    the path that is replaced is the manifest's own, the first one. A relative path is the name of
    a file also where the manifest comes by HTTP: `#`, `%` and `?` in it belong to the name. The
    query of a manifest's URL, such as a signature, is for the manifest alone.
    """
    if _URL.match(audio) or Path(audio).is_absolute():
        return audio
    if not _URL.match(manifest):
        return str(Path(manifest).parent / audio)
    links = manifest.split("::")
    own = next(position for position, link in enumerate(links) if "://" in link)
    folder, name = links[own], audio
    if _is_http(folder):
        folder, name = web.without_query(folder), web.encoded(audio)
    links[own] = f"{folder.rpartition('/')[0]}/{name}"
    return "::".join(links)


def suffix(uri: str) -> str:
    """The suffix of a file's name in lower case, whatever query its URL has; "" if it has none."""
    own = uri.split("::")[0] if _URL.match(uri) else uri
    if _is_http(own):
        own = unquote(web.without_query(own))
    return PurePosixPath(own).suffix.lower()


def shown_location(uri: str) -> str:
    """A location for messages: without what may be secret in a URL, its login and its query."""
    if not _URL.match(uri):
        return uri
    links = (re.sub(r"://[^/@\s]*@", "://", link) for link in uri.split("::"))
    return "::".join(web.without_query(link) if _is_http(link) else link for link in links)


def read_bytes(uri: str) -> bytes:
    """All bytes of a local file or fsspec URL, at most `MOST_BYTES`.

    Raises `LocationError`, and `ObjectStorageError` where that says nothing about the file, because
    the same might succeed later.
    """
    return _attempt(uri, _read_local, lambda url: web.read(url, MOST_BYTES), _read_remote)


def look(uri: str) -> dict[str, Any]:
    """Size, time of change and tag of a file, as far as they can be had without reading it.

    Raises as `read_bytes` does.
    """
    told = _attempt(uri, _look_local, web.look, _look_remote)
    return {key: told.get(key) for key in STAMP_KEYS}


# ---------------------------------------------------------------- which way to a file


def _attempt(
    uri: str,
    local: Callable[[Path], _Result],
    by_http: Callable[[str], _Result],
    remote: Callable[[str], _Result],
) -> _Result:
    try:
        if not _URL.match(uri):
            return local(Path(uri))
        if uri.lower().startswith(_LOCAL) and "::" not in uri:
            return local(_local_path(uri))
        if _is_http(uri) and "::" not in uri:
            return _under_its_name(uri, by_http, web.look)
        return _under_its_name(uri, remote, _look_remote)
    except LocationError:
        raise
    except names.NoSuchFileError as error:
        raise LocationError(str(error), missing=True) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LocationError("there is no such file", missing=True) from error
    except IsADirectoryError as error:
        raise LocationError("it is a folder, not a file", missing=True) from error
    except web.WebError as error:
        raise LocationError(str(error), missing=error.missing) from error
    except ObjectStorageError as error:
        if error.may_pass and not _single_hosts(uri):
            raise
        raise LocationError(error.reason, missing=False) from error
    except Exception as error:  # fsspec drivers are third parties: they raise what they like
        raise LocationError(f"it cannot be read: {_said(error, uri)}", missing=False) from error


def _said(error: Exception, uri: str) -> str:
    """An error in words, without the names of classes and what a URL may hold of secrets."""
    protocol = uri.partition("://")[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ImportError):
        return f"{protocol}:// needs another Python package ({redacted(str(error))})"
    if isinstance(error, ValueError) and "rotocol not known" in str(error):
        return f"Protocol not known: no installed filesystem reads {protocol}:// URLs"
    return redacted(str(error)) or "no reason is given"


def _is_http(link: str) -> bool:
    return link[:8].lower().startswith(("http://", "https://"))


def _single_hosts(uri: str) -> list[str]:
    """The links of a URL that lead to one host each, and not to an object store."""
    links = uri.split("::")
    return [link for link in links if link.partition("://")[0].lower() in _PORTS and "://" in link]


# ---------------------------------------------------------------- local files


def _local_path(url: str) -> Path:
    path = Path(LocalFileSystem._strip_protocol(url))
    # Programs write such URLs encoded, and people do not.
    return path if os.path.lexists(path) else Path(unquote(str(path)))


def _regular(path: Path) -> tuple[Path, os.stat_result]:
    """The file of that name, proved to be one before it is opened: a pipe would block for ever."""
    if "\0" in str(path):
        raise LocationError("its name holds a NUL character", missing=False)
    found = names.find(path)
    try:
        known = found.stat()
    except FileNotFoundError as error:
        raise LocationError("it is a link to a file that is not there", missing=True) from error
    if stat.S_ISDIR(known.st_mode):
        raise IsADirectoryError(found)
    if not stat.S_ISREG(known.st_mode):
        kind = next((kind for is_it, kind in _KINDS if is_it(known.st_mode)), "something else")
        raise LocationError(f"it is {kind}, not a regular file", missing=False)
    return found, known


_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _read_local(path: Path) -> bytes:
    found, known = _regular(path)
    if known.st_size > MOST_BYTES:
        raise LocationError(web.too_large(known.st_size, MOST_BYTES), missing=False)
    with found.open("rb") as file:
        return file.read(known.st_size)


def _look_local(path: Path) -> Mapping[str, Any]:
    _, known = _regular(path)
    return {"size": known.st_size, "mtime": known.st_mtime}


# ---------------------------------------------------------------- URLs


def _open(url: str) -> tuple[RemoteFiles, str]:
    hosts = _single_hosts(url)
    for host in hosts:
        web.require_reachable(host, _PORTS[host.partition("://")[0].lower()])
    return open_url(url, patience_s=_PATIENCE_S) if hosts else open_url(url)


def _read_remote(url: str) -> bytes:
    files, path = _open(url)
    if url.partition("://")[0].lower() in _OBJECT_STORES:
        parts, size = [], 0
        for part in files.pieces(path):
            parts.append(part)
            size += len(part)
            _require_readable(size)
        return b"".join(parts)
    _require_readable(files.info(path).get("size") or 0)  # an archive may unpack to anything
    return files.read(path)


def _look_remote(url: str) -> Mapping[str, Any]:
    files, path = _open(url)
    return files.info(path)


def _require_readable(size: int) -> None:
    if size > MOST_BYTES:
        raise LocationError(web.too_large(size, MOST_BYTES), missing=False)


def _under_its_name(
    url: str, get: Callable[[str], _Result], probe: Callable[[str], object]
) -> _Result:
    """What `get` makes of a URL, or of the only other Unicode form of it that `probe` finds."""
    try:
        return get(url)
    except FileNotFoundError as error:
        missing: Exception = error
    except web.WebError as error:
        if not error.missing:
            raise
        missing = error

    def there(spell: Callable[[str], list[str]]) -> Iterator[str]:
        for form in _spelled(url, spell):
            try:
                probe(form)
            except (FileNotFoundError, web.WebError):
                continue
            yield form

    same = list(there(names.same_names))
    if len(same) == 1:
        return get(same[0])
    for near in there(names.near_names):
        raise names.NoSuchFileError(names.mention(_below_folder(near, url)))
    raise missing


def _spelled(url: str, spell: Callable[[str], list[str]]) -> list[str]:
    """A URL with the other spellings of its path."""
    if _is_http(url) and "::" not in url:
        return [web.with_path(url, path) for path in spell(web.path_of(url))]
    protocol, mark, path = url.partition("://")
    path, chain, rest = path.partition("::")
    return [f"{protocol}{mark}{form}{chain}{rest}" for form in spell(path)]


def _below_folder(near: str, url: str) -> str:
    """The path of `near` as seen from the folder of `url`."""
    path, original = (web.path_of(u) if _is_http(u) else u.partition("::")[0] for u in (near, url))
    folder = original[: original.rfind("/") + 1]
    return path.removeprefix(folder) if path.startswith(folder) else path.rpartition("/")[2]
