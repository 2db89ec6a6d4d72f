"""The guard in front of Dagster's web server, which itself answers whoever asks.

Any page that a browser shows can send requests to a server on the same machine. Dagster executes
GraphQL mutations that come by GET, by form or with any Host. The guard lets through:

- only requests to a host name on the list (another site's name may lead to this machine: DNS
  rebinding);
- pages to anybody who follows a link; everything else from another origin is refused;
- what may change something (a mutation, any other POST) only with proof that it comes from the UI's
  own pages (`Origin` or `Sec-Fetch-Site`, which pages cannot forge) or with the token;
- GraphQL by GET only if it reads, and by POST only as JSON, which no form can send;
- websockets only from the UI's own pages or with the token;
- with a token: nothing at all to who does not have it, as a bearer or as the cookie that a visit to
  `/?token=…` sets.

What belongs here: the decision about a request, and the headers of an answer. The guard is ASGI
middleware and knows nothing of Dagster but the path of its GraphQL endpoint.
"""

import hashlib
import hmac
import json
import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tda_dagster.terminal import one_line

GRAPHQL_PATH = "/graphql"
LEAST_TOKEN_LENGTH = 16

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]\s]+)(?::(?P<port>\d{1,5}))?")
_UNFIT_FOR_A_PATH = re.compile(r"[\x00-\x20\x7f\\]|//")
_READING = ("GET", "HEAD")
_LONGEST_UNPROVEN_BODY = 1_000_000
_MOST_GRAPHQL_TOKENS = 20_000
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}
# Beside Dagster's own policy for scripts; a browser obeys both. No picture from elsewhere: a title
# in a Markdown table could name one, which would tell its server who looks at it.
_CONTENT_POLICY = (
    "frame-ancestors 'self'; form-action 'self'; object-src 'none'; img-src 'self' data: blob:"
)
# By a link of this page and not by a redirect, the next request counts as one of the same site, and
# the browser sends the cookie along wherever the visitor came from.
_ADMITTED = """<!doctype html><meta charset="utf-8"><title>tda ui</title>
<meta http-equiv="refresh" content="0;url=/"><p><a href="/">to the UI</a>"""

_log = logging.getLogger("tda.ui")


@dataclass(frozen=True)
class Access:
    """Who may use the UI.

    Attributes:
        port: The port that the server listens on.
        hosts: Names (`host` for any port, or `host:port`) beside those of the loopback interface.
        token: What visitors must know; None if there is none.
    """

    port: int
    hosts: Collection[str] = ()
    token: str | None = None

    @cached_property
    def _names(self) -> frozenset[str]:
        own = ("127.0.0.1", "localhost", "[::1]")
        names = {f"{name}:{self.port}" for name in own} | {name.lower() for name in self.hosts}
        return frozenset(names | (set(own) if self.port == 80 else set()))

    def serves(self, host: str) -> bool:
        """Whether a Host header names this server."""
        found = _HOST.fullmatch(host.lower())
        return found is not None and (found[0] in self._names or found["name"] in self._names)

    @property
    def cookie(self) -> str:
        """The cookie's name. Browsers send the cookies of all ports of a host."""
        return f"tda_ui_{self.port}"

    @cached_property
    def cookie_value(self) -> str:
        """What the cookie of an admitted visitor holds; the token does not follow from it."""
        return hmac.new((self.token or "").encode(), b"tda ui cookie", hashlib.sha256).hexdigest()

    def knows_token(self, given: str) -> bool:
        """Whether `given` is the token."""
        return self.token is not None and _equal(given, self.token)

    def has_cookie(self, cookies: str) -> bool:
        """Whether a Cookie header holds the cookie of an admitted visitor."""
        return _equal(cookie_parser(cookies).get(self.cookie, ""), self.cookie_value)


def host_name(text: str) -> str:
    """`text` as a name for `Access.hosts`; raises ValueError if it is no host name with or
    without a port."""
    if not _HOST.fullmatch(text.lower()) or "*" in text or "/" in text:
        raise ValueError(f"{text!r} is no host name, with or without a port")
    return text.lower()


class Guard:
    """ASGI middleware: `app` behind the rules of this module."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._http(scope, receive, _with_headers(send))
            case "websocket":
                await self._websocket(scope, receive, send)
            case _:  # lifespan
                await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = _Visit(scope, self._access)
        if (token := visit.offered_token) is not None and visit.is_named and not visit.is_foreign:
            await self._admit(visit, token, scope, receive, send)
            return
        refusal = visit.refusal()
        if refusal is None and visit.must_only_read:
            body, receive = await _whole_body(receive)
            if body is None or not _only_reads(body):
                refusal = _Refusal(403, visit.how_to_prove)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        _log.warning("refused %s: %s", one_line(visit.what), refusal.reason)
        await refusal.response(scope, receive, send)

    async def _admit(
        self, visit: "_Visit", token: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        response: Response
        if not self._access.knows_token(token):
            _log.warning("refused %s: not the token", one_line(visit.what))
            response = PlainTextResponse("this is not the token of this UI\n", status_code=401)
        else:
            response = HTMLResponse(_ADMITTED, headers={"Cache-Control": "no-store"})
            response.set_cookie(
                self._access.cookie,
                self._access.cookie_value,
                httponly=True,
                samesite="strict",
                secure=visit.is_encrypted,
            )
        await response(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = _Visit(scope, self._access)
        refusal = visit.refusal()
        if refusal is None:
            await self._app(scope, receive, send)
            return
        _log.warning("refused %s: %s", one_line(visit.what), refusal.reason)
        await receive()  # the handshake; closing instead of accepting it answers 403
        await send({"type": "websocket.close", "code": 1008})


@dataclass(frozen=True)
class _Refusal:
    status: int
    reason: str

    @property
    def response(self) -> PlainTextResponse:
        return PlainTextResponse(f"{self.reason}\n", status_code=self.status)


class _Visit:
    """What the guard wants to know of one request."""

    def __init__(self, scope: Scope, access: Access) -> None:
        self._headers = Headers(scope=scope)
        self._access = access
        self._path: str = scope["path"]
        self._query = QueryParams(scope.get("query_string", b""))
        self._is_socket = scope["type"] == "websocket"
        self._method: str = "GET" if self._is_socket else scope["method"]
        self._scheme: str = scope.get("scheme", "http")

    @property
    def what(self) -> str:
        """The request in words, for the log; without its query, which may hold a token."""
        kind = "websocket" if self._is_socket else self._method
        host, origin = (self._headers.get(name, "none") for name in ("host", "origin"))
        return f"{kind} {self._path} (host {host}, origin {origin})"

    @property
    def is_named(self) -> bool:
        """Whether exactly one Host header names this server."""
        given = self._headers.getlist("host")
        return len(given) == 1 and self._access.serves(given[0])

    @property
    def is_encrypted(self) -> bool:
        return "https" in (self._scheme, self._headers.get("x-forwarded-proto"))

    @property
    def offered_token(self) -> str | None:
        """The token of a visit to `/?token=…`; None for every other request."""
        if self._access.token is None or self._is_socket or self._method != "GET":
            return None
        return self._query.get("token")

    @property
    def is_foreign(self) -> bool:
        """Whether a browser says that a page of another origin sends this, and it is not somebody
        who follows a link to a page."""
        origins = self._headers.getlist("origin")
        if origins and not (len(origins) == 1 and self._is_own(origins[0])):
            return True
        site = self._headers.get("sec-fetch-site", "none")
        return site not in ("same-origin", "none") and not self._follows_link

    @property
    def must_only_read(self) -> bool:
        """Whether a GraphQL POST was let through on the condition that it changes nothing."""
        return self._is_graphql and self._method == "POST" and not self._is_proven

    @property
    def how_to_prove(self) -> str:
        return (
            "what may change something must come from the UI's own pages; a program sends the "
            f"header Origin: http://{self._headers.get('host', '')} or, if there is a token, "
            "Authorization: Bearer TOKEN"
        )

    def refusal(self) -> _Refusal | None:
        """Why the request is refused; None if it is let through."""
        if not self.is_named:
            return _Refusal(
                421, "the UI does not answer to this host name; tda ui --allow-host NAME adds one"
            )
        # Starlette takes `/graphql` with a line feed after it for `/graphql`.
        if _UNFIT_FOR_A_PATH.search(self._path):
            return _Refusal(400, "the address holds characters that no page of the UI has")
        if not self._is_admitted:
            return _Refusal(401, "this UI asks for a token: open /?token=… in the browser once")
        if self.is_foreign:
            return _Refusal(403, "a page of another origin cannot use this UI")
        if self._is_socket:
            return None if self._is_proven else _Refusal(403, self.how_to_prove)
        if self._is_graphql:
            return self._graphql_refusal()
        if self._method not in _READING and not self._is_proven:
            return _Refusal(403, self.how_to_prove)
        return None

    def _graphql_refusal(self) -> _Refusal | None:
        if self._method in _READING:
            if "text/html" in self._headers.get("accept", ""):  # Dagster shows a page, runs nothing
                return None
            queries = self._query.getlist("query")
            if len(queries) == 1 and _reads(queries[0]):
                return None
            return _Refusal(405, "GET only reads: send a mutation by POST, as JSON")
        if self._method != "POST":
            return _Refusal(405, "GraphQL is sent by POST, as JSON")
        kinds = self._headers.getlist("content-type")
        if [kind.partition(";")[0].strip().lower() for kind in kinds] != ["application/json"]:
            return _Refusal(415, "GraphQL is sent as JSON, with Content-Type: application/json")
        return None

    @property
    def _is_graphql(self) -> bool:
        return self._path.rstrip("/") == GRAPHQL_PATH

    @property
    def _is_admitted(self) -> bool:
        if self._access.token is None or self._has_bearer:
            return True
        return self._access.has_cookie(self._headers.get("cookie", ""))

    @property
    def _has_bearer(self) -> bool:
        kind, _, given = self._headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self._access.knows_token(given.strip())

    @property
    def _is_proven(self) -> bool:
        """Whether one of the UI's own pages sends this, or somebody with the token in hand."""
        if self._has_bearer or self._headers.get("origin") is not None:
            return not self.is_foreign
        return self._headers.get("sec-fetch-site") == "same-origin"

    def _is_own(self, origin: str) -> bool:
        parts = urlsplit(origin)
        host = self._headers.get("host", "").lower()
        return parts.scheme in ("http", "https") and origin.lower() == f"{parts.scheme}://{host}"

    @property
    def _follows_link(self) -> bool:
        return (
            self._method in _READING
            and not self._is_graphql
            and self._headers.get("sec-fetch-mode") == "navigate"
            and self._headers.get("sec-fetch-dest") == "document"
        )


def _reads(query: str) -> bool:
    """Whether a GraphQL document holds queries and nothing else, whichever of its operations is
    run; what cannot be parsed does not."""
    try:
        document = parse(query, no_location=True, max_tokens=_MOST_GRAPHQL_TOKENS)
    except (GraphQLError, RecursionError):
        return False
    operations = [n for n in document.definitions if isinstance(n, OperationDefinitionNode)]
    return all(each.operation is OperationType.QUERY for each in operations)


def _only_reads(body: bytes) -> bool:
    """Whether the body of a GraphQL request holds one document that only reads."""
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(sent, dict) and isinstance(sent.get("query"), str) and _reads(sent["query"])


async def _whole_body(receive: Receive) -> tuple[bytes | None, Receive]:
    """The body, None if it is too long or broke off, and what gives it to the next reader again."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None, receive
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > _LONGEST_UNPROVEN_BODY:
            return None, receive
    given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return given.pop() if given else await receive()

    return body, again


def _with_headers(send: Send) -> Send:
    """`send`, with the headers of this module on every answer."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.append("Content-Security-Policy", _CONTENT_POLICY)
        await send(message)

    return with_headers


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())
