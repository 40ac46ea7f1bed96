"""Everything that moves: parts of a page that are drawn again while something goes on, and how often.

The browser keeps the time (see rest): nothing here sleeps, and while numbers are taken no part is drawn at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal

import streamlit as st

from core.paths import data_dir
from core.runs.screens import drew, rest
from core.runs.store import Run
from core.types import GOING, Result
from hardware.detect import usable_cores
from pages.ui.page import guard
from pages.ui.rest import heard, pulse
from pages.ui.state import result_of

Pace = Literal["text", "strip", "charts", "curves", "items", "cells", "study"]
FIRST_S = 0.15  # until there is something to read
_AFTER_S: dict[Pace, float] = {
    "text": 0.5,
    "strip": 1.0,
    "charts": 1.0,
    "curves": 2.0,
    "items": 5.0,
    "cells": 3.0,
    "study": 10.0,
}
_LATEST_S: dict[Pace, float] = {"text": 2.0, "strip": 2.0, "curves": 4.0, "items": 10.0, "study": 10.0}
_MANY_CORES = 4
_FEW_CORES_S = 2.0  # between two draws of charts where the model needs the cores
_ticking: ContextVar[bool] = ContextVar("ticking", default=False)


def ticking() -> bool:
    """Whether what is being drawn belongs to something that is still going."""
    return _ticking.get()


@contextmanager
def ticks(going: bool) -> Iterator[None]:
    """What is drawn in it belongs to something that is still going, or not."""
    before = _ticking.set(going)
    try:
        yield
    finally:
        _ticking.reset(before)


@contextmanager
def reading(words: str) -> Iterator[None]:
    """Says so where it takes long; not of what is read again and again while something goes on."""
    with nullcontext() if ticking() else st.spinner(words):
        yield


def live(run: Run, draw: Callable[[Run, Result], None], pace: Pace = "text", key: str = "") -> None:
    """Draw now and, while the run goes on, again when it has news; then once more in a full run.

    Call it at the top level of a page, never inside another fragment. `draw` may use widgets: an
    interaction reruns only the fragment. key: where a page draws a run in several parts.
    """
    going = run.status() in GOING

    @st.fragment
    def part() -> None:
        with guard():
            seen = heard(run)
            result = result_of(run)
            try:
                with ticks(result.status in GOING):
                    draw(run, result)
            finally:
                drew(data_dir())
            if result.status in GOING:
                after_s, latest_s = paces(pace, first=pace == "text" and not result.text)
                pulse(f"{run.id}-{pace}-{key}", after_s, latest_s, run, seen)
            elif going:
                st.rerun()  # the whole page once more: what stands on it only after the end

    part()


def moving(key: str, draw: Callable[[], bool], pace: Pace) -> None:
    """Draw now and, as long as `draw` says that it still moves, again at this pace."""

    @st.fragment
    def part() -> None:
        with guard():
            if draw():
                drew(data_dir())
                pulse(key, paces(pace)[0])

    part()


def paces(pace: Pace, first: bool = False) -> tuple[float, float | None]:
    """Seconds after which news are drawn, and after which it is drawn without any; None: never.

    first: nothing can be read yet. An evaluation that is going asks for rarer drawing.
    """
    after_s, latest_s = FIRST_S if first else _AFTER_S[pace], _LATEST_S.get(pace)
    if pace == "charts" and usable_cores() < _MANY_CORES:
        after_s = _FEW_CORES_S
    note = rest(data_dir())
    if note is not None and note.every_s is not None:
        after_s = max(after_s, note.every_s)
        latest_s = None if latest_s is None else max(latest_s, note.every_s)
    return after_s, latest_s
