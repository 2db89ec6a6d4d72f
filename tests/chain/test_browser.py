"""The Dagster UI in a real browser, on a real study."""

import contextlib
import json
import os
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain.conftest import Study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("chromium") is None, reason="needs chromium (apt install chromium)"
    ),
]
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_S = 120


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def ui(study: Study) -> Iterator[str]:
    """The address of a running `tda ui`."""
    port = free_port()
    process = study.start("tda", "ui", "--port", str(port))
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_S
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/server_info", timeout=5)
                break
            assert process.poll() is None, "the UI ended by itself"
            assert time.monotonic() < deadline, "the UI did not start"
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(Exception):
            process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_the_asset_graph_shows_groups_checks_and_materialisations(ui: str, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGUMENTS
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(f"{ui}/asset-groups", wait_until="domcontentloaded")
        page.get_by_text("attribution").first.wait_for(timeout=60_000)
        page.screenshot(path=tmp_path / "graph.png")
        page.goto(f"{ui}/assets/dataset/index", wait_until="domcontentloaded")
        page.get_by_text("rejected rows").first.wait_for(timeout=60_000)
        page.screenshot(path=tmp_path / "index.png")
        page.goto(f"{ui}/assets/dataset/index?view=checks", wait_until="domcontentloaded")
        page.get_by_text("rows_accounted_for").first.wait_for(timeout=60_000)
        page.screenshot(path=tmp_path / "checks.png")
        browser.close()


def test_a_click_materialises_an_asset(ui: str, study: Study) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    before = len(runs(ui))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGUMENTS
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(f"{ui}/assets/dataset/index", wait_until="domcontentloaded")
        page.get_by_role("button", name="Materialize").first.click(timeout=60_000)
        deadline = time.monotonic() + 120
        while len(runs(ui)) == before or runs(ui)[0] not in ("SUCCESS", "FAILURE"):
            assert time.monotonic() < deadline, runs(ui)[:1]
            time.sleep(1)
        browser.close()
    assert runs(ui)[0] == "SUCCESS"


def runs(ui: str) -> list[str]:
    """The status of every run, latest first."""
    query = "{runsOrError{... on Runs{results{status}}}}"
    request = urllib.request.Request(
        f"{ui}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = json.load(answer)["data"]["runsOrError"]["results"]
    return [run["status"] for run in found]
