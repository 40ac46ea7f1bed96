"""Lecture mode: large type and nothing beside the page, on every page of the tab until Escape is pressed."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.ui.state import remembered

_CSS = Path(__file__).with_name("lecture.css")


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


def frame() -> None:
    """On every page: the style and a way out, while it is on."""
    if not on():
        return
    st.html(_CSS)
    with st.container(horizontal=True, horizontal_alignment="right"):
        st.button(
            "Leave lecture mode",
            key="lecture-off",
            icon=":material/close_fullscreen:",
            type="tertiary",
            shortcut="Esc",
            on_click=switch,
            args=(False,),
        )
