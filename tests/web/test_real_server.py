"""The real `tda ui`: what other pages of a browser send to it changes nothing, its own work."""

import contextlib
import http.client
import http.server
import itertools
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from chain.conftest import Study, new_study
from chain.test_browser import ARGUMENTS, free_port

pytestmark = pytest.mark.slow

START_S = 120
TOKEN = "a-token-of-enough-characters"
JSON = {"Content-Type": "application/json"}
_numbers = itertools.count()


@dataclass(frozen=True)
class Ui:
    """A running `tda ui`."""

    port: int
    process: subprocess.Popen[bytes]
    study: Study

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"http://{self.host}"

    def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | str | None = None
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Host": self.host} | dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def state(self) -> tuple[list[str], int, int]:
        """What mutations of these tests change: partitions, runs and events of an asset."""
        code = """
import dagster as dg
found = dg.DagsterInstance.get()
events = found.fetch_materializations(dg.AssetKey(["dataset", "index"]), limit=100).records
print(*found.get_dynamic_partitions("cohort"))
print(found.get_runs_count())
print(len(events))
"""
        names, runs, events = self.study.run("python", "-c", code).stdout.splitlines()
        forged = sorted(name for name in names.split() if name.startswith("forged"))
        return forged, int(runs), int(events)


def mutation() -> str:
    """One that makes a partition of a name of its own, if it is executed."""
    return (
        f'mutation {{ addDynamicPartition(partitionKey: "forged-{next(_numbers)}", '
        'partitionsDefName: "cohort", repositorySelector: {repositoryName: "__repository__", '
        'repositoryLocationName: "tda_dagster.definitions"}) { __typename } }'
    )


def report() -> str:
    """A mutation that says that an asset has been made."""
    return (
        "mutation { reportRunlessAssetEvents(eventParams: {eventType: ASSET_MATERIALIZATION, "
        'assetKey: {path: ["dataset", "index"]}}) { __typename } }'
    )


def start(study: Study, *options: str) -> Ui:
    port = free_port()
    process = study.start("tda", "ui", "--port", str(port), *options)
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
            connection.request("GET", "/server_info")
            connection.getresponse()
            return Ui(port, process, study)
        assert process.poll() is None, "the UI ended by itself"
        assert time.monotonic() < deadline, "the UI did not start"
        time.sleep(0.2)


def end(ui: Ui) -> None:
    if ui.process.poll() is None:
        ui.process.send_signal(signal.SIGTERM)
        ui.process.wait(timeout=30)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return new_study(tmp_path_factory.mktemp("ui") / "study")


@pytest.fixture(scope="module")
def ui(study: Study) -> Iterator[Ui]:
    running = start(study)
    yield running
    end(running)


Request = tuple[str, str, Mapping[str, str], str | None]


def hostile_requests(ui: Ui, text: str) -> Iterator[tuple[str, int, Request]]:
    """What each is, the status that refuses it, and the request: ways to send one mutation."""
    own, foreign = {"Origin": ui.address}, {"Origin": "http://evil.example"}
    rebound = {"Host": f"evil.example:{ui.port}"}
    image = {"Accept": "image/avif,image/webp,image/*,*/*;q=0.8"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    parts = {"Content-Type": "multipart/form-data; boundary=x"}
    plain = {"Content-Type": "text/plain"}
    plain_json = {"Content-Type": "text/plain; application/json"}
    cross = {"Sec-Fetch-Site": "cross-site"}
    preflight = {"Access-Control-Request-Method": "POST"}
    address = f"/graphql?query={quote(text)}"
    body = json.dumps({"query": text})
    two = f"query q {{ version }} {text.replace('mutation', 'mutation m', 1)}"
    named = json.dumps({"query": two, "operationName": "m"})
    made = "/report_asset_materialization/dataset/index"
    yield "an image", 403, ("GET", address, image | cross, None)
    yield "an image in an old browser", 405, ("GET", address, image, None)
    hidden = address.replace("/graphql", "/graphql%0A")
    yield "an image under another path", 400, ("GET", hidden, image, None)
    yield "an image of the own page", 405, ("GET", address, image | own, None)
    yield "one of two operations", 405, ("GET", f"/graphql?query={quote(two)}", own, None)
    yield "a form", 403, ("POST", address, form | foreign, "")
    yield "a form without origin", 415, ("POST", address, form, "")
    yield "a form of parts", 403, ("POST", address, parts | {"Origin": "null"}, "")
    yield "text", 403, ("POST", "/graphql", plain | foreign, body)
    yield "text that says JSON", 415, ("POST", "/graphql", plain_json | own, body)
    yield "JSON", 403, ("POST", "/graphql", JSON | foreign, body)
    yield "JSON without origin", 403, ("POST", "/graphql", JSON, body)
    yield "many at once", 403, ("POST", "/graphql", JSON, f"[{body}]")
    yield "one of several", 403, ("POST", "/graphql", JSON, named)
    yield "rebinding", 421, ("POST", "/graphql", JSON | rebound, body)
    yield "rebinding by GET", 421, ("GET", address, rebound, None)
    yield "an event", 403, ("POST", made, foreign, None)
    yield "an event without origin", 403, ("POST", made, {}, None)
    yield "a preflight", 403, ("OPTIONS", "/graphql", foreign | preflight, None)


def test_what_another_page_or_name_sends_changes_nothing(ui: Ui) -> None:
    before = ui.state()
    for text in (mutation(), report()):
        for what, status, request in hostile_requests(ui, text):
            assert ui.send(*request)[0] == status, what
    assert ui.state() == before


def test_the_own_page_may_change_things_and_programs_may_read(ui: Ui) -> None:
    before = ui.state()
    own = JSON | {"Origin": ui.address, "Sec-Fetch-Site": "same-origin"}
    for text in (mutation(), report()):
        status, said = ui.send("POST", "/graphql", own, json.dumps({"query": text}))
        assert (status, "errors" in json.loads(said)) == (200, False), said
    partitions, runs, events = ui.state()
    assert len(partitions) == len(before[0]) + 1
    assert (runs, events) == (before[1], before[2] + 1)
    read = json.dumps({"query": "{ version }"})
    assert ui.send("POST", "/graphql", JSON, read)[0] == 200
    assert ui.send("GET", f"/graphql?query={quote('{ version }')}", {})[0] == 200


def test_websockets_are_for_the_own_page(ui: Ui) -> None:
    client = pytest.importorskip("websockets.sync.client")
    from websockets.exceptions import InvalidStatus

    before = ui.state()
    address = f"ws://{ui.host}/graphql"
    for origin in ("http://evil.example", "null", None):
        with pytest.raises(InvalidStatus), client.connect(address, origin=origin):
            pass
    with client.connect(address, origin=ui.address, subprotocols=["graphql-ws"]) as connection:
        connection.send(json.dumps({"type": "connection_init"}))
        assert json.loads(connection.recv(timeout=20))["type"] == "connection_ack"
        payload = {"query": mutation()}
        connection.send(json.dumps({"id": "1", "type": "start", "payload": payload}))
        assert json.loads(connection.recv(timeout=20))["type"] == "error"
    assert ui.state() == before


ATTACK = """<!doctype html><title>another page</title><body><script>
const target = "TARGET", query = i => encodeURIComponent(MUTATIONS[i]), seen = [];
const MUTATIONS = LIST;
const done = name => { seen.push(name); if (seen.length == 6) document.title = "done"; };
const image = new Image(); image.onload = image.onerror = () => done("image");
image.src = target + "/graphql?query=" + query(0);
for (const [i, type] of [[1, "text/plain"], [2, "application/x-www-form-urlencoded"]])
  fetch(target + "/graphql?query=" + query(i), {method: "POST", mode: "no-cors",
    headers: {"Content-Type": type}, body: JSON.stringify({query: MUTATIONS[i]})})
    .finally(() => done(type));
fetch(target + "/graphql", {method: "POST", headers: {"Content-Type": "application/json"},
  body: JSON.stringify({query: MUTATIONS[3]})}).catch(() => 0).finally(() => done("json"));
const socket = new WebSocket(target.replace("http", "ws") + "/graphql", "graphql-ws");
socket.onopen = () => { document.body.dataset.open = "yes"; };
socket.onclose = () => done("socket");
const frame = document.createElement("iframe"); frame.name = "frame"; frame.src = target;
document.body.append(frame);
const form = document.createElement("form"); form.method = "post"; form.target = "frame";
form.action = target + "/graphql?query=" + query(4); document.body.append(form);
form.submit(); setTimeout(() => done("form"), 1500);
</script>"""


class _Page(http.server.BaseHTTPRequestHandler):
    text = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def other_page(text: str) -> Iterator[int]:
    """The port of a server that shows another page."""
    handler = type("Page", (_Page,), {"text": text})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@contextlib.contextmanager
def browser_page(*more: str) -> Iterator[Any]:
    if shutil.which("chromium") is None:
        pytest.skip("needs chromium (apt install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*ARGUMENTS, *more]
        )
        yield browser.new_page(viewport={"width": 1600, "height": 1000})
        browser.close()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "evil.example"])
def test_a_hostile_page_in_a_browser_changes_nothing(ui: Ui, name: str) -> None:
    """The page is on another port of the same name (same site), on another, or anywhere."""
    before = ui.state()
    text = ATTACK.replace("TARGET", ui.address).replace(
        "LIST", json.dumps([mutation() for _ in range(5)])
    )
    resolve = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    with other_page(text) as port, browser_page(resolve) as page:
        page.goto(f"http://{name}:{port}/")
        page.wait_for_function("document.title == 'done'", timeout=30_000)
        assert page.locator("body").get_attribute("data-open") is None
    assert ui.state() == before


def test_a_page_whose_name_is_rebound_to_this_machine_gets_nothing(ui: Ui) -> None:
    with browser_page("--host-resolver-rules=MAP evil.example 127.0.0.1") as page:
        answer = page.goto(f"http://evil.example:{ui.port}/")
        assert answer.status == 421


@pytest.fixture(scope="module")
def guarded(study: Study) -> Iterator[Ui]:
    """A UI that asks for a token, given by the variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TDA_UI_TOKEN", TOKEN)
        running = start(study)
    yield running
    end(running)


def test_the_ui_works_in_a_browser_behind_a_token(guarded: Ui) -> None:
    def takes_note(message: Any) -> None:
        if "Content Security" in message.text:
            refused.append(message.text)

    assert guarded.send("GET", "/", {})[0] == 401
    refused: list[str] = []
    with browser_page() as page:
        page.on("response", lambda r: refused.append(r.url) if r.status >= 400 else None)
        page.on("console", takes_note)
        page.goto(f"{guarded.address}/?token={TOKEN}")
        page.wait_for_url(lambda url: "token" not in url, timeout=30_000)
        with page.expect_websocket(timeout=60_000) as opened:
            page.goto(f"{guarded.address}/asset-groups", wait_until="domcontentloaded")
        page.get_by_text("attribution").first.wait_for(timeout=60_000)
        assert opened.value.url.startswith(f"ws://{guarded.host}/graphql")
        page.goto(f"{guarded.address}/automation", wait_until="domcontentloaded")
        page.get_by_text("partitions_sensor").first.wait_for(timeout=60_000)
        with page.expect_response(lambda r: "mutation" in (r.request.post_data or "")) as answer:
            page.locator("label:has(input[checked])").click()
        assert answer.value.status == 200
        assert "errors" not in answer.value.json()
    assert not refused


def test_what_the_ui_started_ends_though_it_is_killed(guarded: Ui) -> None:
    children = _descendants(guarded.process.pid)
    assert len(children) >= 2
    for pid in children:
        assert TOKEN.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    guarded.process.kill()
    guarded.process.wait()
    deadline = time.monotonic() + 25
    while alive := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)


def _descendants(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = status.read_text().rpartition(")")[2].split()
            if int(words[1]) == pid:
                child = int(status.parent.name)
                found += [child, *_descendants(child)]
    return found


def test_a_port_in_use_and_an_address_without_a_token_are_told_in_one_line(study: Study) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = study.run("tda", "ui", "--port", port, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot listen on 127.0.0.1, port {port}")
    done = study.run("tda", "ui", "--host", "0.0.0.0", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "set a token" in done.stderr
