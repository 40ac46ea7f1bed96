"""The polling fragment: one tick reads what is new in a run's folder and draws it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import streamlit as st

from core.runs.store import Run
from core.types import Result
from pages.ui.page import guard
from pages.ui.state import GOING, result_of

_ticking: ContextVar[bool] = ContextVar("ticking", default=False)


def ticking() -> bool:
    """Whether what is being drawn belongs to a run that is still going."""
    return _ticking.get()


def live(run: Run, draw: Callable[[Run, Result], None], every_s: float = 0.5) -> None:
    """Draw now and, while the run goes on, every `every_s` seconds; then once more in a full run.

    Call it at the top level of a page, never inside another fragment. `draw` may use widgets: an
    interaction reruns only the fragment.
    """
    going = run.status() in GOING

    @st.fragment(run_every=every_s if going else None)
    def tick() -> None:
        with guard():
            result = result_of(run)
            _ticking.set(result.status in GOING)
            try:
                draw(run, result)
            finally:
                _ticking.set(False)
            if going and result.status not in GOING:
                st.rerun()  # the whole page once more: it declares this fragment without a timer

    tick()
