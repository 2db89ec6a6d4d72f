"""Object stores and other remote filesystems, reached so that what may pass is waited for.

What belongs here: which environment an object store is reached with, retries, transfers of large
objects in parts, proof that what was sent is what is kept, and errors in words. What the bytes
mean is not known here. Credentials are left to the AWS libraries: they are never read, kept or
printed.
"""

import asyncio
import errno
import hashlib
import http.client
import logging
import math
import os
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import aiohttp
import fsspec
from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from tda_dagster.errors import TdaError
from tda_dagster.masking import masked

TRANSFERS = 8
PATIENCE_S = 60.0

# Larger objects travel in parts of this size: small enough to be sent again without regret.
PART_BYTES = 8 << 20
_MOST_PARTS = 10_000  # S3 takes no more
_PARTS_AT_ONCE = 4  # of one object; bounds the memory that one transfer needs

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
_CONNECT_S = 10.0
_LONGEST_SILENCE_S = 30.0

# Which variables the environment may have set already, and which ones a setting is given to.
# The endpoint goes to S3's own variable: the general one would also divert logins (STS, SSO).
_VARIABLES = {
    "endpoint_url": (("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), ("AWS_ENDPOINT_URL_S3",)),
    "profile": (("AWS_PROFILE", "AWS_DEFAULT_PROFILE"), ("AWS_PROFILE",)),
    "region": (("AWS_REGION", "AWS_DEFAULT_REGION"), ("AWS_REGION", "AWS_DEFAULT_REGION")),
}
_exported: dict[str, str] = {}

_S3 = re.compile(r"(?:^|::)s3a?://")
_MD5 = re.compile(r'"?([0-9a-f]{32}(?:-\d+)?)"?')

_REASONS = {
    "AccessDenied": "access is denied: the credentials need to list, read, write and delete there",
    "AuthorizationHeaderMalformed": "the region is wrong: set store.region or AWS_REGION",
    "ExpiredToken": "the credentials have expired: log in again",
    "InvalidAccessKeyId": "the access key is not known there: check AWS_ACCESS_KEY_ID, or the "
    "profile (store.profile, AWS_PROFILE)",
    "InvalidBucketName": "a bucket cannot have that name: correct the URL",
    "NoSuchBucket": "there is no such bucket: make it, or correct the URL",
    "PermanentRedirect": "the bucket is in another region: set store.region or AWS_REGION",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "SignatureDoesNotMatch": "the secret key does not fit the access key: check "
    "AWS_SECRET_ACCESS_KEY, or the profile (store.profile, AWS_PROFILE)",
}
_REASONS |= {
    "301": _REASONS["PermanentRedirect"],
    "403": f"{_REASONS['AccessDenied']}; check them (AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or the profile) and the bucket's policy",
    "InvalidToken": _REASONS["ExpiredToken"],
    "TokenRefreshRequired": _REASONS["ExpiredToken"],
}
# Refusals that are the fault of the moment or of the wire, whatever their HTTP status says.
_PASSING_CODES = {
    "BadDigest", "IncompleteBody", "OperationAborted", "RequestTimeout", "SlowDown",
    "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch",
}  # fmt: skip
_PASSING_STATUS = {408, 409, 425, 429}
_PASSING_ERRNO = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EIO,
    errno.EPIPE, errno.ETIMEDOUT,
}  # fmt: skip
_BROKEN_OFF = (
    aws.ConnectionError,
    aws.HTTPClientError,
    aws.IncompleteReadError,
    aws.ResponseStreamingError,
    ResponseParserError,
    aiohttp.ClientError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    asyncio.TimeoutError,
)

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class ObjectStorageError(TdaError):
    """An object store cannot be used as it should: where, why, and what to do, in one line.

    `reason` is the part that does not name the place; `may_pass` says that the same might succeed
    later, so that nothing follows from it about what is kept there.
    """

    def __init__(self, where: str, reason: str, *, may_pass: bool = False) -> None:
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.may_pass = may_pass


def export_settings(
    *, endpoint_url: str | None = None, profile: str | None = None, region: str | None = None
) -> None:
    """Let this process and those it starts (DVC, workers) reach S3 as the settings say.

    What the environment says already (AWS_ENDPOINT_URL, AWS_PROFILE, AWS_REGION and their
    variants) comes first. Called again, it takes back what it exported before. Raises
    `ObjectStorageError` for an endpoint that is none, or carries a password.
    """
    if endpoint_url is not None:
        _require_endpoint(endpoint_url)
    given = {"endpoint_url": endpoint_url, "profile": profile, "region": region}
    for variable, exported in _exported.items():
        if os.environ.get(variable) == exported:
            del os.environ[variable]
    _exported.clear()
    for setting, (known, targets) in _VARIABLES.items():
        theirs = _variable(*known)
        # botocore knows AWS_DEFAULT_REGION only, most others AWS_REGION.
        value = theirs if setting == "region" and theirs else given[setting]
        if value is None or (theirs and setting != "region"):
            continue
        for variable in targets:
            if not os.environ.get(variable):
                os.environ[variable] = _exported[variable] = value


def open_url(
    url: str, *, transfers: int = TRANSFERS, patience_s: float = PATIENCE_S
) -> tuple["RemoteFiles", str]:
    """The filesystem behind any URL that fsspec knows, and the path there.

    `transfers` is the most requests made at a time, `patience_s` for how long, in seconds, a
    failing request is tried again. Raises ValueError or ImportError if no installed filesystem
    answers to the URL, and `ObjectStorageError` for a URL with a password.
    """
    options: dict[str, Any] = {}
    if _S3.search(url):
        if "@" in url.split("s3://", 1)[-1].partition("/")[0]:
            raise ObjectStorageError(
                "an s3:// URL",
                "it carries credentials: leave them out, and give them as AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY or in a profile",
            )
        options["s3"] = _s3_options(transfers, patience_s)
    # A cached listing would hide what other processes write.
    fs, path = fsspec.url_to_fs(url, use_listings_cache=False, **options)
    if options and hasattr(fs, "retries"):
        fs.retries = 1  # there is one place that tries again: RemoteFiles
    return RemoteFiles(fs, transfers, patience_s), path


@dataclass(frozen=True)
class Stat:
    """Size in bytes, and the server's tag of the content if it has one."""

    size: int
    etag: str | None


class RemoteFiles:
    """An fsspec filesystem whose every call is tried again while its failure may pass.

    Failures that may pass: no connection, a connection that breaks or is silent, HTTP 5xx, 408,
    409 and 429, bytes damaged on the way. After the first, a call is tried again for `patience_s`
    seconds, at growing intervals. What fails for good raises `ObjectStorageError`, as does a
    bucket that does not exist; a path with nothing there raises FileNotFoundError.
    """

    def __init__(self, fs: Any, transfers: int = TRANSFERS, patience_s: float = PATIENCE_S) -> None:
        self.fs = fs
        self.transfers = transfers
        self._patience_s = patience_s
        self._is_s3 = "s3" in fs.protocol
        self._bucket_seen = not self._is_s3
        self._proven: dict[str, Stat] = {}

    def where(self, path: str) -> str:
        """The URL of `path`, for messages."""
        return cast(str, self.fs.unstrip_protocol(path))

    def stat(self, path: str) -> Stat | None:
        """What is known of an object without reading it; None if there is none."""
        try:
            return self._persist("looked up", path, lambda: self._stat(path))
        except FileNotFoundError:
            return None

    def info(self, path: str) -> Mapping[str, Any]:
        """What the filesystem tells of `path`; raises FileNotFoundError."""

        def look() -> Mapping[str, Any]:
            return cast("Mapping[str, Any]", self.fs.info(path))

        return self._persist("looked up", path, look)

    def read(self, path: str) -> bytes:
        """All bytes of a small object; raises FileNotFoundError."""
        return self._persist("read", path, lambda: cast(bytes, self.fs.cat_file(path)))

    def pieces(self, path: str) -> Iterator[bytes]:
        """The bytes of an object in order, a few parts being fetched ahead; raises
        FileNotFoundError."""
        first = self._persist("read", path, lambda: self._first_part(path))
        yield first
        if len(first) < PART_BYTES:
            return
        size = self._persist("read", path, lambda: self._stat(path)).size

        def part(start: int) -> bytes:
            end = min(start + PART_BYTES, size)
            return self._persist("read", path, lambda: self._part(path, start, end))

        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
            coming: deque[Future[bytes]] = deque()
            for start in range(PART_BYTES, size, PART_BYTES):
                coming.append(pool.submit(part, start))
                if len(coming) == _PARTS_AT_ONCE:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    def download(self, path: str, local: Path) -> None:
        """Write the object to the file `local`; raises FileNotFoundError."""
        with local.open("wb") as file:
            for piece in self.pieces(path):
                file.write(piece)

    def find(self, path: str) -> dict[str, dict[str, Any]]:
        """What is known of every object at any depth below `path`, by path."""

        def find() -> dict[str, dict[str, Any]]:
            return cast("dict[str, dict[str, Any]]", self.fs.find(path, detail=True))

        try:
            found = self._persist("listed", path, find)
        except FileNotFoundError:
            return {}
        if not found:
            self._require_bucket(path)
        return found

    def put(self, path: str, data: bytes) -> None:
        """Put a small object there, in place of what was; proved to have arrived."""

        def send() -> str | None:
            answer = self.fs.pipe_file(path, data)
            if not _proves(answer, _md5(data)):
                self._expect(path, data == self.fs.cat_file(path))
            return _tag(answer)

        self._proven[path] = Stat(len(data), self._persist("written", path, send))

    def create(self, path: str, data: bytes) -> bool:
        """Put a small object there unless there is one; says whether it did.

        On S3 by a conditional write (`If-None-Match: *`), so that of several at once exactly one
        does. After a broken connection it may say False of what it wrote itself.
        """

        def send() -> bool:
            try:
                answer = self.fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if _answer(error)[1] == 412:  # how most servers say "already there"
                    return False
                raise
            if not _proves(answer, _md5(data)) and self.fs.cat_file(path) != data:
                self.put(path, data)  # ours, but damaged on the way
            return True

        return self._persist("written", path, send)

    def upload(self, path: str, local: Path) -> None:
        """Put the file `local` there, a large one in parts; proved to have arrived.

        The proof is the server's MD5 of what it keeps. Where it has none (encrypted by a key
        service, another kind of server), the object is read back once.
        """
        size = local.stat().st_size
        part_bytes = _part_bytes(size)
        if part_bytes is None:
            self.put(path, local.read_bytes())
            return
        options = {"chunksize": part_bytes, "max_concurrency": _PARTS_AT_ONCE}

        def send() -> None:
            self.fs.put_file(str(local), path, **(options if self._is_s3 else {}))
            kept = self._stat(path)
            if not _proves({"ETag": kept.etag}, _md5_of_parts(local, part_bytes)):
                self._expect(path, kept.size == size and self._same(path, local))
            self._proven[path] = kept

        self._persist("written", path, send)

    def holds(self, path: str, local: Path) -> bool:
        """Whether the object's bytes are those of the file `local`; False if there is none.

        The server's MD5 is believed if it fits. Where it has none, or another (objects encrypted by
        a key service have), the object is read back, once for each tag it has.
        """
        kept = self.stat(path)
        if kept is None or kept.size != local.stat().st_size:
            return False
        if _proves({"ETag": kept.etag}, _tag_of(local)):
            return True
        if kept.etag is not None and self._proven.get(path) == kept:
            return True
        try:
            same = self._persist("read", path, lambda: self._same(path, local))
        except FileNotFoundError:
            return False
        if same:
            self._proven[path] = kept
        return same

    def remove(self, path: str) -> None:
        """Remove an object; nothing happens if there is none."""
        try:
            self._persist("removed", path, lambda: self.fs.rm_file(path))
        except FileNotFoundError:
            return

    def _stat(self, path: str) -> Stat:
        if self._is_s3:
            # What s3fs's info() does more is to look for a folder of that name.
            bucket, key, _ = self.fs.split_path(path)
            answer = self.fs.call_s3("head_object", Bucket=bucket, Key=key)
            return Stat(answer["ContentLength"], answer.get("ETag"))
        info = self.fs.info(path)
        if info.get("type") == "directory":
            raise FileNotFoundError(path)
        return Stat(info["size"], None)

    def _first_part(self, path: str) -> bytes:
        # Asked for at once and not after the size: most objects have no other part.
        try:
            return cast(bytes, self.fs.cat_file(path, start=0, end=PART_BYTES))
        except OSError as error:
            if _answer(error)[1] == 416:  # an empty object has no first byte to start at
                return b""
            raise

    def _part(self, path: str, start: int, end: int) -> bytes:
        data = cast(bytes, self.fs.cat_file(path, start=start, end=end))
        if len(data) != end - start:
            raise _Damaged(f"{len(data)} bytes came instead of {end - start}")
        return data

    def _same(self, path: str, local: Path) -> bool:
        kept = hashlib.sha256()
        for piece in self.pieces(path):
            kept.update(piece)
        with local.open("rb") as file:
            return kept.digest() == hashlib.file_digest(file, "sha256").digest()

    def _expect(self, path: str, arrived: bool) -> None:
        if not arrived:
            raise _Damaged("it holds other bytes than were sent")

    def _persist(self, done: str, path: str, do: Callable[[], Result]) -> Result:
        first_failure: float | None = None
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                return do()
            except (FileExistsError, IsADirectoryError, NotADirectoryError, ObjectStorageError):
                raise
            except FileNotFoundError as error:
                if _answer(error)[0] == "NoSuchBucket":
                    raise self._no_bucket(path) from error
                self._require_bucket(path)
                raise
            except Exception as error:  # drivers are third parties: they raise what they like
                now = time.monotonic()
                reason, may_pass = _diagnosis(error)
                if not may_pass:
                    raise self._failure(done, path, reason, may_pass) from error
                if first_failure is None:
                    first_failure = now
                    _log.warning("%s", masked(f"{self.where(path)}: {reason}; it is tried again"))
                if now + wait_s - first_failure > self._patience_s:
                    tried = f"{reason} (tried for {self._patience_s:g} s)"
                    raise self._failure(done, path, tried, may_pass) from error
            # Apart by chance: many workers that failed together must not come back together.
            time.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _require_bucket(self, path: str) -> None:
        # "Not found" is also what a bucket that does not exist answers to most questions.
        if self._bucket_seen:
            return
        try:
            self.fs.call_s3("head_bucket", Bucket=self.fs.split_path(path)[0])
        except FileNotFoundError as error:
            raise self._no_bucket(path) from error
        except Exception:  # not everybody may ask
            return
        self._bucket_seen = True

    def _no_bucket(self, path: str) -> ObjectStorageError:
        bucket = self.where(self.fs.split_path(path)[0])
        return ObjectStorageError(bucket + self._endpoint(), _REASONS["NoSuchBucket"])

    def _failure(self, done: str, path: str, reason: str, may_pass: bool) -> ObjectStorageError:
        where = self.where(path) + self._endpoint()
        return ObjectStorageError(where, f"it cannot be {done}: {reason}", may_pass=may_pass)

    def _endpoint(self) -> str:
        endpoint = getattr(self.fs, "endpoint_url", None)
        return f" at {redacted(endpoint)}" if endpoint else ""


def side_by_side(
    do: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """`do` for every item, up to `workers` at a time; results in order, as they come."""
    if workers == 1:
        yield from map(do, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        results = [pool.submit(do, item) for item in items]
        try:
            for result in results:
                yield result.result()
        finally:
            pool.shutdown(cancel_futures=True)  # one failed: the rest is not begun


class _Damaged(OSError):
    """Bytes that changed on their way."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EIO, what)


def _s3_options(transfers: int, patience_s: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_concurrency": 1,  # with more, every small read would ask for the size first
        "config_kwargs": {
            "connect_timeout": min(_CONNECT_S, patience_s),
            "read_timeout": min(_LONGEST_SILENCE_S, patience_s),
            "max_pool_connections": transfers,
            # One more attempt at once, also for a part in the midst of an upload.
            "retries": {"mode": "standard", "total_max_attempts": 2},
            # Content is proved by digests of our own, and many servers know no others.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
    }
    # Given although botocore would find it: connections are shared by those with equal options.
    if endpoint := _variable(*_VARIABLES["endpoint_url"][0]):
        _require_endpoint(endpoint)
        options["endpoint_url"] = endpoint
    if region := _variable(*_VARIABLES["region"][0]):
        options["client_kwargs"] = {"region_name": region}
    return options


def _variable(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _require_endpoint(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ObjectStorageError(
            "store.endpoint_url (AWS_ENDPOINT_URL)",
            f"{redacted(url)!r} is no endpoint: one looks like https://s3.example.org",
        )
    if parts.username or parts.password or parts.query:
        raise ObjectStorageError(
            "store.endpoint_url (AWS_ENDPOINT_URL)",
            "it carries credentials: leave them out, and give them as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or in a profile",
        )


def _diagnosis(error: BaseException) -> tuple[str, bool]:
    """Why a call failed, without anything secret, and whether it may pass."""
    code, status = _answer(error)
    if code is not None:
        may_pass = (status >= 500 and status != 501) or status in _PASSING_STATUS
        may_pass = may_pass or code in _PASSING_CODES
        reason = _REASONS.get(code) or _REASONS.get(str(status))
        said = f"HTTP {status}" + ("" if code == str(status) else f" {code}")
        if reason:
            return f"{reason} ({said})", may_pass
        if may_pass:
            return f"the server answers {said}: try later, or look at its logs", True
        return f"the server refuses it with {said}: it may lack a feature of S3", False
    match error:
        case aws.NoCredentialsError() | aws.PartialCredentialsError():
            reason = (
                "no credentials are found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a "
                "profile (store.profile, AWS_PROFILE)"
            )
        case aws.ProfileNotFound():
            reason = "the profile (store.profile, AWS_PROFILE) is not in ~/.aws/config"
        case aws.CredentialRetrievalError() | aws.SSOError():
            reason = "the profile's credentials cannot be fetched: log in again"
        case aws.SSLError():
            reason = (
                "the server's certificate is not accepted: check that the endpoint "
                "(store.endpoint_url, AWS_ENDPOINT_URL) speaks https, and AWS_CA_BUNDLE"
            )
        case _Damaged():
            return f"{error.strerror}, again and again: check the server and the network", True
        case _ if isinstance(error, _BROKEN_OFF):
            return (
                f"no answer, or a broken one ({type(error).__name__}): check that the server runs, "
                "the endpoint (store.endpoint_url, AWS_ENDPOINT_URL) and the network"
            ), True
        case OSError():
            reason = error.strerror or redacted(str(error)) or "the system refuses it"
            return reason, error.errno in _PASSING_ERRNO
        case _:
            reason = redacted(str(error)) or "no reason is given"
    return reason, False


def _answer(error: BaseException | None) -> tuple[str | None, int]:
    """The code and the HTTP status of the answer that led to an error; (None, 0) if none did."""
    while error is not None:
        if isinstance(error, aws.ClientError):
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = str(error.response.get("Error", {}).get("Code", ""))
            return (code if re.fullmatch(r"\w{1,60}", code) else str(status)), status
        error = error.__cause__
    return None, 0


def redacted(text: str) -> str:
    """For messages: the first line of a text, without what a URL may carry besides the place."""
    line = (text.splitlines() or [""])[0]
    line = re.sub(r"//[^/@\s]*@", "//", line)
    return re.sub(r"\?[^\s'\"]*", "", line)[:200]


def _tag(answer: Any) -> str | None:
    """What a server's answer calls the content of an object."""
    return answer.get("ETag") if isinstance(answer, Mapping) else None


def _proves(answer: Any, md5: str) -> bool:
    match = _MD5.fullmatch(_tag(answer) or "")
    return match is not None and match[1] == md5


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _part_bytes(size: int) -> int | None:
    """The size of the parts in which a file of `size` bytes travels; None if it is sent whole."""
    if size < 2 * PART_BYTES:
        return None
    return max(PART_BYTES, math.ceil(size / _MOST_PARTS))


def _tag_of(path: Path) -> str:
    """The tag S3 gives to the file when it is sent as `RemoteFiles.upload` does."""
    part_bytes = _part_bytes(path.stat().st_size)
    return _md5(path.read_bytes()) if part_bytes is None else _md5_of_parts(path, part_bytes)


def _md5_of_parts(path: Path, part_bytes: int) -> str:
    """The tag S3 gives to an object that was sent in parts."""
    parts = []
    with path.open("rb") as file:
        while piece := file.read(part_bytes):
            parts.append(hashlib.md5(piece, usedforsecurity=False).digest())
    return f"{_md5(b''.join(parts))}-{len(parts)}"
