"""roofscope app with the real browser: a window without furniture, and nothing left of the app when it is closed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.browser.conftest import CHROMIUM, ROOT, WAIT_MS, free_port

pytestmark = pytest.mark.browser
# The real one, on a screen that nobody sees, and with a way in: `roofscope app` knows of neither.
BROWSER = """#!/bin/sh
exec {chromium} --headless=new --disable-gpu --remote-debugging-port={port} "$@"
"""


def attached(browser: Any, port: int) -> Any:
    """The window, once it is open."""
    from playwright.sync_api import Error

    end = time.monotonic() + WAIT_MS / 1000
    while True:
        try:
            return browser.browser_type.connect_over_cdp(f"http://127.0.0.1:{port}")
        except Error:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_a_closed_window_ends_server_and_workers(browser: Any, home: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    port, command = free_port(), tmp_path / "browser"
    command.write_text(BROWSER.format(chromium=shutil.which(CHROMIUM or ""), port=port))
    command.chmod(0o755)
    with (tmp_path / "said").open("w+") as said:
        app = subprocess.Popen([sys.executable, "-m", "core", "app", "--browser", str(command)], cwd=ROOT, stderr=said)
        try:
            window = attached(browser, port)
            (page,) = window.contexts[0].pages
            page.set_default_timeout(WAIT_MS)
            expect(page.get_by_role("heading", name="Run", exact=True, level=1)).to_be_visible()
            assert page.evaluate("matchMedia('(display-mode: standalone)').matches"), "a window of its own"
            page.goto(page.url.split("?")[0] + "?model=tiny-moe&backend=fake&warmup=0&max_new_tokens=8")
            page.locator(".st-key-start button").first.click()
            page.wait_for_url(re.compile(r"run=\d{8}-\d{6}-\w{6}"))
            expect(page.get_by_text("Finished")).to_be_visible()
            started = psutil.Process(app.pid).children(recursive=True)
            words = [" ".join(p.cmdline()) for p in started]
            assert any("streamlit" in w for w in words) and any("core.worker" in w for w in words), words
            window.new_browser_cdp_session().send("Browser.close")  # a window that nobody sees has no cross to click
            assert app.wait(WAIT_MS / 1000) == 0, said.seek(0) or said.read()
        finally:
            if app.poll() is None:
                for process in psutil.Process(app.pid).children(recursive=True):
                    process.kill()
                app.kill()
                app.wait()
    _, alive = psutil.wait_procs(started, timeout=WAIT_MS / 1000)
    assert not alive
