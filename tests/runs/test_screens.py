"""The notes between the worker and the screens."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from core.runs import screens
from core.types import to_json


def test_a_rest_is_seen_until_it_ends(tmp_path: Path) -> None:
    assert screens.rest(tmp_path) is None
    begun = screens.begin(tmp_path, "r1", expected_s=4.0)
    found = screens.rest(tmp_path)
    assert found == begun and (found.run, found.owner.pid, found.expected_s) == ("r1", os.getpid(), 4.0)
    assert abs(found.since_s - time.time()) < 60
    screens.end(tmp_path)
    assert screens.rest(tmp_path) is None and not list(tmp_path.glob("rest*"))
    screens.end(tmp_path)  # a second time does no harm


def test_the_note_of_a_dead_worker_is_removed(tmp_path: Path) -> None:
    code = f"from core.runs import screens; from pathlib import Path; screens.begin(Path({str(tmp_path)!r}), 'r1', 4.0)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    assert (tmp_path / screens.REST).exists()
    assert screens.rest(tmp_path) is None and not (tmp_path / screens.REST).exists()


def test_a_note_whose_process_number_was_given_to_another_is_removed(tmp_path: Path) -> None:
    begun = screens.begin(tmp_path, "r1", expected_s=4.0)
    earlier = msgspec.structs.replace(begun.owner, started=begun.owner.started - 1000)
    (tmp_path / screens.REST).write_bytes(to_json(msgspec.structs.replace(begun, owner=earlier)))
    assert screens.rest(tmp_path) is None and not (tmp_path / screens.REST).exists()


def test_a_damaged_note_asks_for_nothing(tmp_path: Path) -> None:
    (tmp_path / screens.REST).write_text("{")
    assert screens.rest(tmp_path) is None


def test_quiet_counts_from_the_last_drawing(tmp_path: Path) -> None:
    assert screens.quiet_s(tmp_path) == float("inf")
    screens.drew(tmp_path)
    os.utime(tmp_path / screens.DREW, (time.time() - 100,) * 2)
    assert 99 < screens.quiet_s(tmp_path) < 200
    screens.drew(tmp_path)
    assert screens.quiet_s(tmp_path) < 60
