"""What closed tabs leave behind: nothing that grows. `python -m tests.faults left` has all pages and more rounds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from tests.faults.campaign import ROOT
from tests.faults.left import Life, growing

PAGES = ("run", "history", "layers", "what_if")


def life(**kinds: int) -> Life:
    return Life(Counter(kinds), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)


def test_a_kind_grows_that_is_there_in_larger_numbers_after_every_warm_round() -> None:
    counts = {"warm": (1, 9, 9, 9), "leak": (5, 7, 10, 14), "wanders": (3, 5, 4, 6), "once": (0, 2, 3, 3)}
    lives = [life(**{name: values[n] for name, values in counts.items()}) for n in range(4)]
    assert growing(lives) == [("leak", 3.5)]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """Four rounds of four pages, in a process of its own: the app changes what belongs to the whole process."""
    command = [sys.executable, "-m", "tests.faults", "left", "--rounds", "4", "--json", "--pages", *PAGES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_closed_tab_leaves_no_session_no_file_and_no_download(told: dict[str, Any]) -> None:
    assert max(told["left"].values()) <= 1, "Streamlit's loop holds the one that it served last"
    assert told["media"] == 0 and len(set(told["files"][1:])) == 1


def test_closed_tabs_leave_no_objects_that_grow(told: dict[str, Any]) -> None:
    assert [kind for kind, more in told["growing"] if more >= 10] == []
    assert [kind for kind, _ in told["growing"] if kind.startswith(("core.", "pages.", "__main__"))] == []
