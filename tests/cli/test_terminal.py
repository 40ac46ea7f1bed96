"""What a terminal is shown: text from outside, and none of it as a command."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from core.cli.terminal import plain
from core.runs.store import Store
from core.types import Request
from tests.cli.test_cli import ROOT

TITLE = "\x1b]0;evil\x07\x1b[2Jgone\u202e\x9b31m"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[31m", "␛[31m"),
        ("done\rfailed", "done␍failed"),
        ("\x7f\x9b\u202e", "\ufffd\ufffd\ufffd"),
        ("Grüße – 你好 🙂", "Grüße – 你好 🙂"),
    ],
)
def test_what_would_act_is_seen(words: str, shown: str) -> None:
    assert plain(words) == shown


def test_names_in_a_table_and_in_an_error_do_not_reach_the_terminal(store: Store, fake_request: Request) -> None:
    store.create(Request(model=TITLE, backend="fake", task=fake_request.task))
    for command, status in ((("runs",), 0), (("export", TITLE.replace("/", "")), 2)):
        ours, theirs = pty.openpty()
        line = [sys.executable, "-m", "core", *command]
        with subprocess.Popen(line, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            told = b"".join(iter(lambda: _read(ours), b""))  # noqa: B023 - asked within the loop alone
        os.close(ours)
        assert process.returncode == status and "gone" in told.decode() and "␛" in told.decode()
        assert not {0x1B, 0x07} & set(told) and b"\xc2\x9b" not in told


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # so Linux says that nobody is at the other end
        return b""
