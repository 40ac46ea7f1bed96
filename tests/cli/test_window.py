"""roofscope app: which window it opens, and that nothing is left when the window is closed."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from core.cli import cli, window
from hardware.errors import ExplorerError

# A browser that looks once, tells what it was given and is closed.
BROWSER = """#!{python}
import json, sys, urllib.request
url = next(a for a in sys.argv if a.startswith("--app="))[6:]
with urllib.request.urlopen(url, timeout=60) as answer:
    page = answer.read().decode()
json.dump({{"args": sys.argv[1:], "url": url, "page": page}}, open({told!r}, "w"))
sys.exit({status})
"""


def stand_in(folder: Path, status: int = 0) -> tuple[Path, Path]:
    browser, told = folder / "browser", folder / "told.json"
    browser.write_text(BROWSER.format(python=sys.executable, told=str(told), status=status))
    browser.chmod(0o755)
    return browser, told


def opened(browser: Path, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "core", "app", "--browser", str(browser)]
    return subprocess.run(command, cwd=window.ROOT, text=True, capture_output=True, check=False, timeout=120)


def test_the_app_lives_as_long_as_its_window(home: Path, tmp_path: Path) -> None:
    browser, told = stand_in(tmp_path)
    done = opened(browser, home)
    assert done.returncode == 0, done.stderr
    seen = json.loads(told.read_text())
    assert "<title>" in seen["page"] and seen["url"].startswith("http://127.0.0.1:")
    (profile,) = [a.partition("=")[2] for a in seen["args"] if a.startswith("--user-data-dir=")]
    assert not Path(profile).exists()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(seen["url"], timeout=5)


def test_a_window_that_cannot_open_is_a_sentence(home: Path, tmp_path: Path) -> None:
    done = opened(stand_in(tmp_path, status=3)[0], home)
    assert done.returncode == 2 and "status 3" in done.stderr and "make run" in done.stderr


def test_which_window(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(window, "MAC_APPS", ())
    monkeypatch.setattr(window, "find_spec", lambda name: None)
    with pytest.raises(ExplorerError, match="No browser"):
        window.window_command()
    assert CliRunner().invoke(cli, ["app", "--browser", "lynx-of-mine"]).exit_code == 2
    monkeypatch.setattr(window, "find_spec", lambda name: object())
    assert window.window_command()[:2] == [sys.executable, "-c"]
    chrome = tmp_path / "google-chrome"
    chrome.write_text("")
    chrome.chmod(0o755)
    assert window.window_command()[:3] == [str(chrome), "--app={url}", "--user-data-dir={profile}"]
