"""The card of a first start, with three ways in, and the tour that goes along from page to page."""

from __future__ import annotations

import streamlit as st

from core.learn import first_start
from core.learn.first_start import TOUR
from core.paths import data_dir
from core.runs.demo import recorded_id
from pages.ui import text
from pages.ui.links import go
from pages.ui.state import remembered, store

_WAYS = (
    (
        "run",
        ":material/play_arrow:",
        "Stay here and press Run",
        "The embedded model answers at once: no download, no settings.",
    ),
    ("tour", ":material/tour:", "Start the tour", "Seven pages, a sentence each: what this app can show you."),
    ("lesson", ":material/school:", "Open the first lesson", "Predict, try and check: what one token costs."),
)


def draw_card() -> None:
    """On a fresh machine only, and never again once one of its ways was taken."""
    if _tour().get("at") is not None or not first_start.first(data_dir(), store().ids(), recorded_id()):
        return
    with st.container(border=True, key="first-start"):
        st.markdown("**Welcome to Roofscope.** Three ways to begin:")
        with st.container(horizontal=True, gap="xsmall"):
            for way, icon, label, words in _WAYS:
                if st.button(label, key=f"first-{way}", icon=icon, help=words):
                    _take(way)


def _take(way: str) -> None:
    first_start.settle(data_dir())
    if way == "lesson":
        go("pages/learn/lessons.py", {"lesson": "one_token", "step": "1"})
    if way == "tour":
        _tour()["at"] = 0
    st.rerun()


def tour_strip() -> None:
    """While the tour goes on: what to look at here, and the way to the next page."""
    at = _tour().get("at")
    if at is None:
        return
    stop = TOUR[at]
    with st.container(
        border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="tour"
    ):
        st.markdown(
            f":material/tour: **Tour, {at + 1} of {len(TOUR)}: {text.escape(stop.title)}.** {text.escape(stop.words)}",
            width="content",
        )
        with st.container(horizontal=True, width="content"):
            if at + 1 < len(TOUR) and st.button("Next page", key="tour-on", icon=":material/arrow_forward:"):
                _tour()["at"] = at + 1
                go(TOUR[at + 1].page, {})
            if st.button("End the tour", key="tour-end", type="tertiary"):
                _tour()["at"] = None
                st.rerun()


def _tour() -> dict[str, int | None]:
    return remembered("tour", dict[str, int | None])
