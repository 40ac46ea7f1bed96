"""A command in a process of its own: others see that it goes on, what it says, and that it has ended."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

from core.runs.detached import last_words, launch, owner_of

CODE = "import time; print('one\\ntwo', flush=True); time.sleep(600)"


def test_it_is_known_by_its_note_until_it_ends_and_its_words_stay(tmp_path: Path) -> None:
    log, note = tmp_path / "log", tmp_path / "note"
    assert owner_of(note, log) is None and last_words(log, 3) == ""
    launch(("-c", CODE), log, note)
    owner = owner_of(note, log)
    assert owner is not None
    process = psutil.Process(owner.pid)
    try:
        end = time.monotonic() + 60
        while last_words(log, 1) != "two" and time.monotonic() < end:
            time.sleep(0.05)
        assert last_words(log, 1) == "two" and last_words(log, 3) == "one\ntwo"
        assert os.getsid(owner.pid) == owner.pid, "a Ctrl-C of the shell does not reach it"
    finally:
        process.kill()
        process.wait(60)
    assert owner_of(note, log) is None and last_words(log, 3) == "one\ntwo"
