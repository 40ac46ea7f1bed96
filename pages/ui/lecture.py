"""Lecture mode: large type and nothing beside the page, on every page of the tab until Escape is pressed."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.ui.links import link
from pages.ui.state import remembered

_CSS = Path(__file__).with_name("lecture.css")
LARGER = 1.6  # how much larger the words of a chart are, which do not grow with the page
WAYS = (  # what a lecture is given with, beside the lessons' own links; the menu is away
    ("pages/learn/lessons.py", "Lessons", ":material/school:"),
    ("pages/understand/roofline.py", "Roofline", ":material/stacked_line_chart:"),
    ("pages/understand/layers.py", "Layers", ":material/account_tree:"),
    ("pages/understand/jacobi.py", "Jacobi, live", ":material/animation:"),
    ("pages/measure/run.py", "Run", ":material/play_arrow:"),
)


def on() -> bool:
    """Whether this tab lectures; an address with `lecture=1` begins it."""
    kept = remembered("lecture", dict[str, bool])
    if "on" not in kept:
        kept["on"] = st.query_params.get("lecture") == "1"
    return kept["on"]


def switch(to: bool) -> None:
    remembered("lecture", dict[str, bool])["on"] = to
    if to:
        st.query_params["lecture"] = "1"
    else:
        st.query_params.pop("lecture", None)


def frame(title: str) -> None:
    """On every page: the style, the pages a lecture needs and a way out, while it is on. title: of the page."""
    if not on():
        return
    st.html(_CSS)
    with st.container(horizontal=True, horizontal_alignment="right", key="lecture-ways"):
        with st.popover("Pages", icon=":material/menu:", type="tertiary", key=f"lecture-pages-{title}"):
            for page, label, icon in WAYS:
                link(page, label, icon)
        st.button(
            "Leave",
            key="lecture-off",
            icon=":material/close_fullscreen:",
            type="tertiary",
            shortcut="Esc",
            on_click=switch,
            args=(False,),
            help="Leave lecture mode",
        )
