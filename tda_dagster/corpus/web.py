"""Files behind http:// and https:// URLs, so that one bad row stops and delays no others.

What belongs here: writing a URL as HTTP wants it, time limits, and remembering for a while which
hosts do not answer. In contrast to an object store that holds a study, an unreachable web server
is a fault of the rows that name it.
"""

import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import requests
import urllib3

_CONNECT_S = 5.0
_SILENCE_S = 15.0
_PATIENCE_S = 8.0  # of one file, while the server answers that it is busy or broken
_FAILURES = 3  # in a row, of different files: then it is the host
_FORGET_S = 120.0
_SLOWEST_BYTES_S = 16_000
_GRACE_S = 60.0
_LONGEST_S = 600.0  # where the server does not say how much will come
_PIECE_BYTES = 1 << 18

_BROKEN_OFF = "the connection breaks off, or is silent"
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_REFUSED = {
    401: "the server asks for a login (HTTP 401)",
    403: "the server refuses access (HTTP 403): a signed URL may have expired",
}

_Result = TypeVar("_Result")


class WebError(Exception):
    """A file cannot be had from a web server; the message is a sentence without its address."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


def encoded(name: str) -> str:
    """The path of a URL for the name of a file, whatever characters it has."""
    return quote(name, safe="/")


def without_query(url: str) -> str:
    """A URL without its query and fragment."""
    return re.split(r"[?#]", url, maxsplit=1)[0]


def path_of(url: str) -> str:
    """The path of a URL, decoded."""
    return unquote(urlsplit(url).path)


def with_path(url: str, path: str) -> str:
    """The URL with another path, given decoded."""
    return urlunsplit(urlsplit(url)._replace(path=encoded(path)))


def read(url: str, most_bytes: int) -> bytes:
    """All bytes behind a URL. Raises `WebError`, also for more than `most_bytes`."""

    def body(answer: requests.Response) -> bytes:
        return _body(answer, most_bytes)

    return _ask("GET", url, body)


def look(url: str) -> dict[str, Any]:
    """What the server tells of a file without sending it: size, and its tag and time of change.

    Raises `WebError`.
    """

    def headers(answer: requests.Response) -> dict[str, Any]:
        length = answer.headers.get("Content-Length", "")
        return {
            "size": int(length) if length.isdigit() else None,
            "ETag": answer.headers.get("ETag"),
            "LastModified": answer.headers.get("Last-Modified"),
        }

    try:
        return _ask("HEAD", url, headers)
    except WebError as error:
        if error.missing:
            raise
        return _ask("GET", url, headers)  # not every server knows HEAD, nor every signature


def require_reachable(url: str, port: int) -> None:
    """Raise `WebError` if the host of a URL takes no connections at `port` or the URL's own."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or port
    except ValueError as error:
        raise WebError("its URL is not valid") from error
    known = _host(f"{host}:{port}")
    known.require_open()
    try:
        socket.create_connection((host, port), _CONNECT_S).close()
    except OSError as error:
        reason = _unreachable(error) or "its host cannot be reached"
        raise known.closed(reason) from error
    known.answered()


# ---------------------------------------------------------------- hosts


class _Host:
    """What is known of a host: once it has not answered, it is not asked again for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._reason = ""
        self._closed_until = 0.0

    def require_open(self) -> None:
        with self._lock:
            if time.monotonic() < self._closed_until:
                raise WebError(self._reason)

    def answered(self) -> None:
        with self._lock:
            self._failures = 0

    def failed(self, reason: str) -> WebError:
        """A file could not be had: several in a row close the host."""
        with self._lock:
            self._failures += 1
            failures = self._failures
        return self.closed(reason) if failures >= _FAILURES else WebError(reason)

    def closed(self, reason: str) -> WebError:
        with self._lock:
            self._reason = reason
            self._closed_until = time.monotonic() + _FORGET_S
        return WebError(reason)


_hosts: dict[str, _Host] = {}
_hosts_lock = threading.Lock()
_of_thread = threading.local()


def _host(name: str) -> _Host:
    with _hosts_lock:
        return _hosts.setdefault(name.lower(), _Host())


def forget_hosts() -> None:
    """Ask every host again, whatever it did before."""
    with _hosts_lock:
        _hosts.clear()


# ---------------------------------------------------------------- requests


class _PassingError(Exception):
    """The same request may succeed a moment later; `is_host` says that others will fail, too."""

    def __init__(self, reason: str, *, is_host: bool) -> None:
        super().__init__(reason)
        self.is_host = is_host


class _UnreachableError(Exception):
    pass


def _ask(method: str, url: str, use: Callable[[requests.Response], _Result]) -> _Result:
    target = _as_sent(url)
    host = _host(urlsplit(target).netloc.rpartition("@")[2])
    host.require_open()
    started, wait_s, tries = time.monotonic(), 0.25, 0
    while True:
        tries += 1
        try:
            result = _ask_once(method, target, use)
        except _UnreachableError as error:
            if tries > 1:
                raise host.closed(str(error)) from error
        except _PassingError as error:
            if time.monotonic() - started + wait_s > _PATIENCE_S:
                raise (host.failed if error.is_host else WebError)(str(error)) from error
        else:
            host.answered()
            return result
        time.sleep(wait_s)
        wait_s *= 2


def _ask_once(method: str, target: str, use: Callable[[requests.Response], _Result]) -> _Result:
    try:
        with _session().request(
            method, target, stream=True, timeout=(_CONNECT_S, _SILENCE_S), allow_redirects=True
        ) as answer:
            _require_success(answer.status_code)
            return use(answer)
    except requests.exceptions.SSLError as error:
        raise WebError(
            "no secure connection comes about: the server's certificate is not accepted, or it "
            "speaks http"
        ) from error
    except (requests.ReadTimeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _PassingError(_BROKEN_OFF, is_host=True) from error
    except requests.ConnectionError as error:
        reason = _unreachable(error)
        if reason is not None:
            raise _UnreachableError(reason) from error
        raise _PassingError(_BROKEN_OFF, is_host=True) from error
    except requests.TooManyRedirects as error:
        raise WebError("the server redirects without end") from error
    except (requests.RequestException, ValueError) as error:
        raise WebError("its URL is not valid, or not what the server says") from error


def _require_success(status: int) -> None:
    if status in (404, 410):
        raise WebError(f"there is no such file (HTTP {status})", missing=True)
    if status in _PASSING_STATUS:
        reason = f"the server cannot answer (HTTP {status})"
        raise _PassingError(reason, is_host=status != 500)
    if not 200 <= status < 300:
        raise WebError(_REFUSED.get(status, f"the server refuses it (HTTP {status})"))


def _body(answer: requests.Response, most_bytes: int) -> bytes:
    length = answer.headers.get("Content-Length", "")
    declared = int(length) if length.isdigit() else None
    if declared is not None and declared > most_bytes:
        raise WebError(too_large(declared, most_bytes))
    started = time.monotonic()
    content = bytearray()
    for piece in answer.iter_content(_PIECE_BYTES):
        content += piece
        if len(content) > most_bytes:
            raise WebError(too_large(len(content), most_bytes))
        elapsed_s = time.monotonic() - started
        if declared is None and elapsed_s > _LONGEST_S:
            raise WebError("the server sends without end: a live stream is no file")
        if declared is not None and len(content) < _SLOWEST_BYTES_S * (elapsed_s - _GRACE_S):
            raise WebError("the server sends too slowly")
    if (
        declared is not None
        and "Content-Encoding" not in answer.headers
        and len(content) < declared
    ):
        raise _PassingError(_BROKEN_OFF, is_host=False)
    return bytes(content)


def too_large(size: int, most_bytes: int) -> str:
    """The sentence for a file of more bytes than are read."""
    return (
        f"it has {size / 1e9:.1f} GB or more; files of up to {most_bytes / 1e9:.1f} GB are read: "
        "split it, or convert it to FLAC"
    )


def _session() -> requests.Session:
    if not hasattr(_of_thread, "session"):
        session = requests.Session()
        session.headers["Accept-Encoding"] = "identity"  # the file, not a packed one
        _of_thread.session = session
    of_thread: requests.Session = _of_thread.session
    return of_thread


def _as_sent(url: str) -> str:
    """The URL with every character that HTTP does not know encoded; a lone % stands for itself."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise WebError("its URL is not valid") from error
    if not parts.hostname:
        raise WebError("its URL is not valid: it names no host")

    def sent(text: str) -> str:
        return quote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text), safe="%/:@!$&'()*+,;=~?")

    return urlunsplit((parts.scheme, parts.netloc, sent(parts.path), sent(parts.query), ""))


def _unreachable(error: BaseException | None) -> str | None:
    """Why no connection came about, in words; None if one did."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, socket.gaierror | urllib3.exceptions.NameResolutionError):
            return "its host cannot be reached: no such host is known"
        if isinstance(error, ConnectionRefusedError):
            return "its host cannot be reached: the connection is refused"
        if isinstance(error, TimeoutError | requests.ConnectTimeout):
            return "its host cannot be reached: it does not answer"
        if isinstance(error, urllib3.exceptions.NewConnectionError) and error.__cause__ is None:
            return "its host cannot be reached"
        reason = getattr(error, "reason", None)
        inner = reason if isinstance(reason, BaseException) else None
        inner = inner or next((a for a in error.args if isinstance(a, BaseException)), None)
        error = inner or error.__cause__ or error.__context__
    return None
