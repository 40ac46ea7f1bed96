"""The real server on a free port with a home of its own, and Debian's Chromium looking at it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
WAIT_MS = 60_000  # only a fault waits so long; a busy machine may need a good part of it
CHROMIUM = next((p for p in ("chromium", "chromium-browser", "google-chrome") if shutil.which(p)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    sync_api.expect.set_options(timeout=WAIT_MS)
    with chromium() as (browser,):
        yield browser


@contextmanager
def chromium(n: int = 1) -> Iterator[list[Any]]:
    """Browsers, each a program of its own; they end with it.

    Without a GPU, which Chromium would imitate: what moves on a page then takes a core and more.
    """
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        sys.exit("There is no Chromium on this machine: apt-get install chromium.")
    with sync_playwright() as playwright:
        path, args = shutil.which(CHROMIUM), ["--no-sandbox", "--disable-gpu"]
        browsers = [playwright.chromium.launch(executable_path=path, args=args) for _ in range(n)]
        try:
            yield browsers
        finally:
            for browser in browsers:
                if browser.is_connected():
                    browser.close()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """`streamlit run app.py` as a user starts it. fresh() restarts it, so that nobody has loaded a page yet."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def address(self, page: str = "", **query: object) -> str:
        return f"{self.url}/{page}?{urlencode(query)}"

    def start(self) -> None:
        home = str(self.home)
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "streamlit",
                "run",
                "app.py",
                f"--server.port={self.port}",
                "--server.headless=true",
            ],
            cwd=ROOT,
            env={**os.environ, "ROOFSCOPE_HOME": home, "HOME": home},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def fresh(self) -> None:
        self.stop()
        self.port = free_port()
        self.start()


@contextmanager
def served(home: Path) -> Iterator[Server]:
    """The app on this home; ends with it."""
    server = Server(home)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app with the recorded run, for all tests that only look: a server takes seconds to start and to warm."""
    with served(tmp_path_factory.mktemp("shown")) as server:
        yield server


@pytest.fixture
def tab(browser: Any) -> Iterator[Callable[[], Any]]:
    """Opens tabs. Afterwards: no script error happened, and nothing outside this machine was asked for."""
    errors: list[str] = []
    outside: list[str] = []
    contexts = []

    def look(request: Any) -> None:
        if urlsplit(request.url).hostname not in ("127.0.0.1", "localhost", None):
            outside.append(request.url)

    def open_tab() -> Any:
        context = browser.new_context(viewport={"width": 1440, "height": 1000})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", look)
        return page

    yield open_tab
    for context in contexts:
        context.close()
    assert not errors
    assert not outside


def still(page: Any) -> None:
    """Wait until the page is drawn and nothing more is on its way."""
    from playwright.sync_api import expect

    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
