"""Which requests the guard lets through to an application that would serve them all."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest

from tda_dagster.web.guard import Access, Guard, host_name

HOST = "127.0.0.1:3000"
OWN = {"host": HOST, "origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}
JSON = {"content-type": "application/json"}
READ = "query { version }"
WRITE = "mutation { wipeAssets(assetPartitionRanges: []) { __typename } }"
TOKEN = "a token of enough characters"


@dataclass
class Answer:
    """What a client of the guarded application sees, and what the application saw."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    seen: list[bytes] = field(default_factory=list)
    """The bodies of the requests that reached the application."""
    accepted: bool = False

    @property
    def reached(self) -> bool:
        return bool(self.seen)

    def header(self, name: str) -> list[str]:
        return [v.decode() for n, v in self.headers if n.decode() == name]


def ask(
    method: str = "GET",
    path: str = "/",
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    *,
    query: str = "",
    body: bytes = b"",
    access: Access | None = None,
    kind: str = "http",
) -> Answer:
    answer = Answer()
    chunks = [body[:7], body[7:]]
    given = headers.items() if isinstance(headers, Mapping) else headers

    async def app(scope: Any, receive: Any, send: Any) -> None:
        read = b""
        if scope["type"] == "http":
            while True:
                message = await receive()
                read += message["body"]
                if not message["more_body"]:
                    break
        answer.seen.append(read)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        start = {"type": "http.response.start", "status": 200}
        await send(start | {"headers": [(b"referrer-policy", b"unsafe-url")]})
        await send({"type": "http.response.body", "body": b"served"})

    async def receive() -> dict[str, Any]:
        if kind == "websocket":
            return {"type": "websocket.connect"}
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    async def send(message: Mapping[str, Any]) -> None:
        match message["type"]:
            case "http.response.start":
                answer.status, answer.headers = message["status"], list(message["headers"])
            case "http.response.body":
                answer.body += message["body"]
            case "websocket.accept":
                answer.accepted = True

    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "scheme": "ws" if kind == "websocket" else "http",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given],
    }
    asyncio.run(Guard(app, access or Access(3000))(scope, receive, send))
    return answer


def graphql(text: str, **more: object) -> bytes:
    return json.dumps({"query": text, **more}).encode()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:3000",
        "127.0.0.1.evil.example:3000",
        "localhost.evil.example:3000",
        "127.0.0.1:3001",
        "127.0.0.1",
        "localhost:3000.evil.example",
        "localhost:3000@evil.example",
        "evil.example@localhost:3000",
        "[::1]:3000.evil.example",
        "localhost.:3000",
        "",
    ],
)
def test_another_host_name_is_refused_whatever_is_asked(host: str) -> None:
    for origin in (f"http://{host}", f"http://{HOST}"):
        headers = {"host": host, "origin": origin, "sec-fetch-site": "same-origin"}
        for answer in (
            ask(headers=headers),
            ask("POST", "/graphql", headers | JSON, body=graphql(WRITE)),
            ask(headers=headers, kind="websocket", path="/graphql"),
        ):
            assert not answer.reached
            assert not answer.accepted


def test_two_or_no_host_headers_are_refused() -> None:
    assert not ask(headers=[("host", HOST), ("host", HOST)]).reached
    assert not ask(headers=[]).reached


@pytest.mark.parametrize(
    "host", ["127.0.0.1:3000", "localhost:3000", "LOCALHOST:3000", "[::1]:3000"]
)
def test_the_names_of_this_machine_and_those_that_are_allowed_are_served(host: str) -> None:
    assert ask(headers={"host": host}).status == 200
    access = Access(3000, ["tda.example", "lan.example:8080"])
    for name in (host, "tda.example", "tda.example:443", "TDA.example", "lan.example:8080"):
        assert ask(headers={"host": name}, access=access).status == 200, name
    assert not ask(headers={"host": "lan.example"}, access=access).reached


@pytest.mark.parametrize(
    "foreign",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "http://localhost:3000"},
        {"origin": f"http://{HOST}.evil.example"},
        {"origin": f"ftp://{HOST}"},
        {"origin": "null"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "origin": f"http://{HOST}"},
    ],
)
def test_a_page_of_another_origin_can_do_nothing(foreign: dict[str, str]) -> None:
    headers = {"host": HOST} | foreign
    for answer in (
        ask("POST", "/graphql", headers | JSON, body=graphql(WRITE)),
        ask("POST", "/graphql", headers | JSON, body=graphql(READ)),
        ask("GET", "/graphql", headers | {"accept": "image/*"}, query=f"query={quote(WRITE)}"),
        ask("GET", "/graphql", headers | {"accept": "image/*"}, query=f"query={quote(READ)}"),
        ask("POST", "/report_asset_materialization/dataset/index", headers),
        ask("POST", "/", headers),
        ask("OPTIONS", "/graphql", headers),
        ask("GET", "/logs/x/y/err", headers),
        ask("GET", "/graphql", headers, kind="websocket"),
    ):
        assert not answer.reached
        assert answer.status in (0, 403)


@pytest.mark.parametrize(
    "query",
    [
        WRITE,
        f"{READ} {WRITE.replace('mutation', 'mutation m')}",
        f"query q {{ version }} {WRITE.replace('mutation', 'mutation m')}",
        "subscription { pipelineRunLogs(runId: 1) { __typename } }",
        "mutation @skip(if: false) { x }",
        "#query\nmutation{x}",
        "\ufeffmutation{x}",
        "{",
        "",
        "{" + "a{" * 5000,
    ],
)
def test_get_and_unproven_posts_only_read(query: str) -> None:
    headers = {"host": HOST, "accept": "image/*"}
    encoded = f"query={quote(query)}&operationName=q"
    assert not ask("GET", "/graphql", headers | OWN, query=encoded).reached
    assert not ask("HEAD", "/graphql", headers | OWN, query=encoded).reached
    assert not ask("GET", "/graphql/", headers, query=encoded).reached
    body = graphql(query, operationName="q")
    assert not ask("POST", "/graphql", headers | JSON, body=body).reached


@pytest.mark.parametrize(
    "path", ["/graphql\n", "/graphql\r\n", "//graphql", "/\\graphql", "/graphql\x00", "/graph\tql"]
)
def test_a_path_that_only_looks_different_is_refused(path: str) -> None:
    headers = {"host": HOST, "accept": "image/*"}
    assert not ask("GET", path, headers, query=f"query={quote(WRITE)}").reached
    assert not ask("POST", path, headers | JSON, body=graphql(WRITE)).reached


def test_reads_are_served_without_proof() -> None:
    headers = {"host": HOST}
    assert ask("GET", "/graphql", headers, query=f"query={quote(READ)}").status == 200
    body = graphql(READ, variables={"a": 1})
    assert ask("POST", "/graphql", headers | JSON, body=body).seen == [body]


def test_of_two_queries_in_an_address_neither_is_run() -> None:
    for pair in ((READ, WRITE), (WRITE, READ), (READ, READ)):
        query = "&".join(f"query={quote(each)}" for each in pair)
        assert not ask("GET", "/graphql", {"host": HOST}, query=query).reached


@pytest.mark.parametrize(
    "body",
    [
        json.dumps([{"query": READ}, {"query": WRITE}]).encode(),
        b'{"query": "{version}", "query": "mutation{x}"}',
        b'{"query": ["mutation{x}"]}',
        b"[" * 100_000,
        b"not json",
        graphql(READ + " " * 1_000_001),
    ],
)
def test_an_unproven_body_that_may_hide_a_mutation_is_refused(body: bytes) -> None:
    assert not ask("POST", "/graphql", {"host": HOST} | JSON, body=body).reached


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "text/plain; application/json",
        "text/plain;charset=application/json",
        "application/graphql",
        "",
        None,
    ],
)
def test_graphql_that_a_form_could_send_is_refused_even_with_the_right_origin(
    kind: str | None,
) -> None:
    headers = OWN if kind is None else OWN | {"content-type": kind}
    query = f"query={quote(WRITE)}"
    assert not ask("POST", "/graphql", headers, query=query, body=query.encode()).reached
    doubled = [*OWN.items(), *JSON.items(), ("content-type", "text/plain")]
    assert not ask("POST", "/graphql", doubled, body=graphql(WRITE)).reached


@pytest.mark.parametrize("proof", [{"origin": f"http://{HOST}"}, {"sec-fetch-site": "same-origin"}])
def test_the_own_pages_may_do_everything(proof: dict[str, str]) -> None:
    headers = {"host": HOST} | proof
    body = graphql(WRITE)
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
        answer = ask("POST", "/graphql", headers | {"content-type": kind}, body=body)
        assert answer.seen == [body]
    assert ask("POST", "/report_asset_check/a", headers).reached
    assert ask(path="/graphql", headers=headers, kind="websocket").accepted


def test_without_proof_nothing_that_may_change_something_is_served() -> None:
    headers = {"host": HOST}
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        assert not ask(method, "/report_asset_materialization/a", headers | JSON).reached
    assert not ask("POST", "/graphql", headers | JSON, body=graphql(WRITE)).reached
    assert not ask(path="/graphql", headers=headers, kind="websocket").accepted
    told = ask("POST", "/graphql", headers | JSON, body=graphql(WRITE)).body.decode()
    assert f"Origin: http://{HOST}" in told


def test_a_link_to_a_page_can_be_followed_from_elsewhere_but_not_framed_or_embedded() -> None:
    link = {"host": HOST, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert ask(path="/runs", headers=link | {"sec-fetch-dest": "document"}).status == 200
    assert not ask(path="/runs", headers=link | {"sec-fetch-dest": "iframe"}).reached
    embedded = link | {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"}
    assert not ask(path="/runs", headers=embedded).reached
    followed = link | {"sec-fetch-dest": "document"}
    assert not ask(path="/graphql", headers=followed, query=f"query={quote(READ)}").reached
    assert not ask("POST", "/runs", followed).reached


def test_every_answer_carries_the_headers_against_framing_and_sniffing() -> None:
    for answer in (ask(headers={"host": HOST}), ask(headers={"host": "evil.example"})):
        assert answer.header("x-frame-options") == ["SAMEORIGIN"]
        assert answer.header("x-content-type-options") == ["nosniff"]
        assert answer.header("referrer-policy") == ["same-origin"]
        assert answer.header("cross-origin-resource-policy") == ["same-origin"]
        assert "frame-ancestors 'self'" in answer.header("content-security-policy")[-1]


def test_with_a_token_nothing_is_served_without_it() -> None:
    access = Access(3000, token=TOKEN)
    wrong = [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": "tda_ui_3000=wrong"},
        {"cookie": f"tda_ui_3000={TOKEN}"},
        {"cookie": f"tda_ui_3001={access.cookie_value}"},
        {"cookie": f"tda_ui_3000={Access(3000, token=TOKEN + '!').cookie_value}"},
    ]
    for headers in wrong:
        assert ask(headers=OWN | headers, access=access).status == 401
        assert not ask(
            "POST", "/graphql", OWN | JSON | headers, body=graphql(READ), access=access
        ).reached
        assert not ask(
            path="/graphql", headers=OWN | headers, access=access, kind="websocket"
        ).accepted


def test_the_token_admits_a_program_as_a_bearer_and_a_browser_by_a_cookie() -> None:
    access = Access(3000, token=TOKEN)
    program = {"host": HOST, "authorization": f"Bearer {TOKEN}"} | JSON
    assert ask("POST", "/graphql", program, body=graphql(WRITE), access=access).reached
    foreign = program | {"origin": "http://evil.example"}
    assert not ask("POST", "/graphql", foreign, body=graphql(WRITE), access=access).reached

    visit = ask(path="/runs", headers={"host": HOST}, query=f"token={quote(TOKEN)}", access=access)
    assert (visit.status, visit.reached) == (200, False)
    (cookie,) = visit.header("set-cookie")
    name, _, attributes = cookie.partition(";")
    assert "HttpOnly" in attributes
    assert "SameSite=strict" in attributes
    assert TOKEN not in cookie
    assert TOKEN not in visit.body.decode()
    assert visit.header("referrer-policy") == ["same-origin"]
    assert ask(headers=OWN | {"cookie": f"other=1; {name}"}, access=access).status == 200
    # The cookie alone proves no origin.
    sent = {"host": HOST, "cookie": name} | JSON
    assert not ask("POST", "/graphql", sent, body=graphql(WRITE), access=access).reached


def test_a_wrong_token_and_one_under_another_name_set_no_cookie() -> None:
    access = Access(3000, token=TOKEN)
    query = f"token={quote(TOKEN)}"
    wrong = ask(headers={"host": HOST}, query="token=wrong", access=access)
    rebound = ask(headers={"host": "evil.example"}, query=query, access=access)
    framed = ask(headers={"host": HOST, "origin": "null"}, query=query, access=access)
    for answer in (wrong, rebound, framed):
        assert answer.status in (401, 403, 421)
        assert not answer.header("set-cookie")


@pytest.mark.parametrize("name", ["*", "", "a b", "http://a", "a/b", "a:b", "*.example"])
def test_what_is_no_host_name_cannot_be_allowed(name: str) -> None:
    with pytest.raises(ValueError, match="no host name"):
        host_name(name)
