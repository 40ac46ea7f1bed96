"""What the browser does by itself: it has a moving part drawn again when there are news, and keeps still in a rest.

The one place that knows the page's two components; how often a part is drawn is the matter of live.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import streamlit as st

from core.paths import data_dir
from core.runs.measuring import holder
from core.runs.screens import PAUSE_S, Rest, rest
from core.runs.store import Run, Store
from hardware.errors import ExplorerError
from pages.ui.outlook import foreseen, left_words, spent_s

_HERE = Path(__file__).parent
_JS = (_HERE / "rest.js").read_text()
_line = st.components.v2.component(
    "roofscope-rest", html=(_HERE / "rest.html").read_text(), css=(_HERE / "rest.css").read_text(), js=_JS
)
_pulse = st.components.v2.component("roofscope-pulse", js=_JS)


def resting() -> Rest | None:
    """The rest in which nothing is drawn; a slower pace is none."""
    found = rest(data_dir())
    return found if found is not None and found.every_s is None else None


def words(note: Rest, left: str = "") -> str:
    """What the screen says while it rests. left: of the whole run; without it, how long this pass takes."""
    about = left or (f"about {round(note.expected_s)} s" if _known(note) else "")
    return ", ".join(filter(None, ("Timing: the screen rests so that the number is clean", about)))


def _known(note: Rest) -> bool:
    """Whether a pass that was shown before told how long it will take."""
    return note.expected_s > PAUSE_S


def since(note: Rest | None) -> str:
    """What tells one rest from another; empty without one."""
    return "" if note is None else f"{note.since_s:.3f}"


def told(note: Rest | None) -> dict[str, Any] | None:
    """What the browser needs to draw the line, its clock, and the bar of the whole run by itself.

    before_s, whole_s: of the run, when the rest began, and in all; None where earlier runs do not tell.
    """
    if note is None:
        return None
    for_s = max(0.0, time.time() - note.since_s)
    expected_s = note.expected_s if _known(note) else None
    before_s, whole_s, left = _whole(note.run, for_s)
    return {
        "since": since(note),
        "for_s": for_s,
        "expected_s": expected_s,
        "words": words(note, left),
        "before_s": before_s,
        "whole_s": whole_s,
    }


def _whole(run_id: str, for_s: float) -> tuple[float | None, float | None, str]:
    """Seconds of the run before the rest and in all, and what is left in words."""
    try:
        run = Store(data_dir()).open(run_id)
        seen, spent = foreseen(run), spent_s(run)
    except (ExplorerError, OSError):
        return None, None, ""
    if seen.left is None:
        return None, None, ""
    return max(0.0, spent - for_s), spent + seen.left.likely_s, left_words(seen.left)


def going() -> str:
    """The run that a process measures on this data folder, this app or another one; empty without one."""
    held = holder(data_dir())
    return held.run if held is not None and held.run and (data_dir() / "runs" / held.run).is_dir() else ""


def line(note: Rest | None) -> None:
    """The line that says that the screen rests, seen only while it does. Once on every page, outside fragments.

    With a note the page is drawn in the middle of a rest, and holds nothing else; it is drawn anew afterwards.
    """
    _line(
        data={"kind": "line", "rest": told(note), "drawn_resting": note is not None, "going": going()},
        key="rest",
        height="content",
        on_over_change=lambda: None,
        on_changed_change=lambda: None,
        on_stop_change=_stop,
    )


def pulse(key: str, after_s: float, latest_s: float | None = None, run: Run | None = None, seen: int = 0) -> None:
    """Have the fragment around it drawn again after `after_s` seconds, then as soon as the run has news.

    latest_s: also without news. seen: how long the run's events were when they were read (see heard).
    """
    data = {"kind": "pulse", "after_s": after_s, "latest_s": latest_s, "drawn": time.time()}
    if run is not None:
        data |= {"run": run.id, "seen": seen}
    _pulse(data=data, key=f"pulse-{key}", height="content", on_tick_change=lambda: None)


def heard(run: Run) -> int:
    """How many bytes of events the run has written."""
    try:
        return (run.path / "events.jsonl").stat().st_size
    except OSError:
        return 0


def _stop() -> None:
    """The user's wish to end what is being timed."""
    from pages.ui.state import runner

    note = resting()
    if note is not None and note.run in Store(data_dir()).ids():
        runner().cancel(note.run)
