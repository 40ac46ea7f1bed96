"""What a bar says of a whole run: how long it lasts, what is left, and nothing where nothing is known."""

from __future__ import annotations

import msgspec
import pytest

from core.runs import screens
from core.runs.progress import Stage
from core.runs.stages import Left, Outlook
from core.runs.store import Store
from core.types import Pass, Phase
from pages.ui import outlook, rest, text
from tests.pages.conftest import TINY


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (None, ""),
        (Left(likely_s=42, low_s=31, high_s=61, n_runs=5), "about 40 s left (30 s to 1 min)"),
        (Left(likely_s=41, low_s=40, high_s=42, n_runs=5), "about 40 s left"),
        (Left(likely_s=130, low_s=130, high_s=130, n_runs=1), "about 2 min 10 s left, by one earlier run"),
        (Left(likely_s=3000, low_s=3000, high_s=3000, n_runs=0), "about 50 min left at this pace"),
        (Left(likely_s=0, low_s=0, high_s=3, n_runs=3), "about 1 s left (1 s to 3 s)"),
    ],
)
def test_what_is_left_in_words(left: Left | None, words: str) -> None:
    assert outlook.left_words(left) == words


def test_rough_times_have_no_false_digits() -> None:
    told = {7.4: "7 s", 33.0: "35 s", 59.0: "1 min", 117.0: "2 min", 128.0: "2 min 10 s", 1234.0: "21 min"}
    assert {value: text.roughly(value) for value in told} == told
    assert text.roughly(9000.0) == "2.5 h"


def test_a_wait_says_what_and_how_long() -> None:
    importing = Stage(name="loading", detail="Importing [x](http://y)")
    line = outlook.stage_line(importing, Outlook(fraction=0.1, wait_s=7.2, expected_s=18.0))
    assert line.startswith("**Loading** · Importing ") and line.endswith(", 7 s of about 18 s") and "[x](" not in line
    assert outlook.stage_line(importing, Outlook(fraction=0.1, wait_s=7.2)).endswith(", 7 s")
    assert outlook.stage_line(importing, Outlook(fraction=0.1, wait_s=27.0, expected_s=18.0)).endswith(", 27 s")
    assert not outlook.stage_line(importing, Outlook(fraction=0.1, wait_s=1.0)).endswith("s")
    reading = Stage(name="loading", detail="Reading", done=5e6, total=1e7, unit="bytes")
    assert outlook.stage_line(reading, Outlook(fraction=0.1, wait_s=9.0)) == "**Loading** · Reading 5.00 MB of 10.0 MB"


def test_in_a_rest_the_browser_has_the_whole_run_in_one_message(filled: Store) -> None:
    """Two earlier runs like it tell: the line draws its bar from what it is told once."""
    run = filled.create(msgspec.structs.replace(TINY, profilers=()))
    run.append(Phase(t_s=0.1, name="loading", note="Opening nothing"))
    run.append(Pass(t_s=0.2, number=0, kind="timing"))
    note = screens.begin(filled.root, run.id, 4.2)
    found = rest.told(note)
    assert found is not None and found["since"] == rest.since(note)
    assert 0 <= found["before_s"] <= found["whole_s"]
    assert " left" in found["words"] and found["words"].count("about") == 1, "one time, that of the whole run"
    gone = rest.told(screens.begin(filled.root, "gone", 1.0))
    assert gone is not None and (gone["before_s"], gone["whole_s"]) == (None, None) and "left" not in gone["words"]
    screens.end(filled.root)
