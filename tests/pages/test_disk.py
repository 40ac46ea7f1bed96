"""A disk that refuses is a sentence on the page, and no "Something went wrong"."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from streamlit.testing.v1 import AppTest

from core import storage
from core.cli import cli


def test_a_page_says_what_the_disk_refused() -> None:
    def script() -> None:
        import errno

        from pages.ui.page import guard

        with guard():
            raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    at = AppTest.from_function(script).run()
    (error,) = at.error
    assert "disk is full" in error.proto.title and "Storage" in error.value and not at.exception


def test_and_so_does_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise PermissionError(13, "Permission denied", "/data/x")

    monkeypatch.setattr(storage, "items", refused)
    done = CliRunner().invoke(cli, ["storage"])
    assert done.exit_code == 1 and "may not be used: /data/x" in done.output and "Traceback" not in done.output
