"""The app in a window of its own: a server that lives as long as the window, in a browser without its furniture."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import click

from core.cli.group import cli
from core.cli.serving import listening
from hardware.errors import ExplorerError

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "brave-browser",
    "vivaldi",
)  # fmt: skip
MAC_APPS = ("Google Chrome", "Chromium", "Microsoft Edge", "Brave Browser", "Vivaldi")
WEBVIEW = (
    "import sys, webview; webview.create_window('Roofscope', sys.argv[1], width=1440, height=900); webview.start()"
)
START_S = 120  # of the server, on a slow disk
END_S = 15  # of the server, with the workers that it has to end
ELSEWHERE = "Start it with `make run` and open the address in any browser."


@cli.command("app")
@click.option("--browser", help="A Chromium-like browser, by name or path; otherwise the first one that is found.")
def open_app(browser: str | None) -> None:
    """Open the app in a window of its own. Closing the window ends the app and what runs in it."""
    command = window_command(browser)
    with (
        _server() as url,
        tempfile.TemporaryDirectory(prefix="roofscope-window-", ignore_cleanup_errors=True) as profile,
    ):
        click.echo(f"Roofscope is at {url} until its window is closed.", err=True)
        status = subprocess.run([part.format(url=url, profile=profile) for part in command], check=False).returncode
    if status:
        raise ExplorerError(f"The window ended with status {status}: there may be no screen here.", ELSEWHERE)


def window_command(browser: str | None = None) -> list[str]:
    """What opens the window and ends with it; {url} and {profile} stand for what is known later.

    A profile of its own keeps the browser from handing the window to one that is open already. Raises ExplorerError
    where nothing can open one.
    """
    found = shutil.which(browser) if browser else next(iter(_browsers()), None)
    if found:
        root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        new = ["--no-first-run", "--no-default-browser-check", "--window-size=1440,900"]
        return [found, "--app={url}", "--user-data-dir={profile}", *new, *root]
    if browser:
        raise ExplorerError(f"There is no browser '{browser}'.", "Give its path, or leave --browser out.")
    if find_spec("webview"):
        return [sys.executable, "-c", WEBVIEW, "{url}"]
    raise ExplorerError(
        "No browser was found that opens a window of its own (Chromium, Chrome, Edge, Brave or Vivaldi).",
        f"Install one, name it with --browser, or install pywebview. {ELSEWHERE}",
    )


def _browsers() -> Iterator[str]:
    yield from filter(None, map(shutil.which, COMMANDS))
    if sys.platform == "darwin":
        for name in MAC_APPS:
            path = Path("/Applications") / f"{name}.app" / "Contents" / "MacOS" / name
            if path.is_file():
                yield str(path)


@contextmanager
def _server() -> Iterator[str]:
    """The app's server on a free port of this machine, ended as by Ctrl-C."""
    with listening("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    flags = [f"--server.port={port}", "--server.headless=true", "--server.address=127.0.0.1"]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", *flags]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)
        try:
            _await_server(server, url, said)
            yield url
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(END_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _await_server(server: subprocess.Popen[bytes], url: str, said: IO[bytes]) -> None:
    end = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    said.seek(0)
    why = said.read().decode(errors="replace").strip().splitlines()[-1:] or [f"no answer in {START_S} s"]
    raise ExplorerError(f"The app did not start: {why[0]}.", "Start it with `make run`, which shows what it says.")
