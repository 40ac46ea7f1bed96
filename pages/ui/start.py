"""Starts a run and shows it; one that cannot run is answered in place."""

from __future__ import annotations

import streamlit as st

from core.types import Request
from hardware.errors import ExplorerError
from pages.ui.links import PAGES, link
from pages.ui.page import fault
from pages.ui.state import choose_run, open_run, runner


def start(request: Request, anew: bool = True) -> None:
    """Start it and draw the page anew. While another run is going: say so, and link to it.

    anew: False where what is drawn further down shows the run already, and nothing above it changes.
    """
    going = runner().active()
    if going:
        st.warning(
            "Two at once would spoil both measurements. Stop it or wait for its end.",
            title="A run is going already",
            icon=":material/front_hand:",
        )
        page = PAGES[type(open_run(going).request.task)]
        link(page, "Show the run that is going", ":material/visibility:", going)
        return
    try:
        run_id = runner().start(request)
    except ExplorerError as error:
        fault(error)
        return
    choose_run(run_id)
    if anew:
        st.rerun()


def start_button(label: str, icon: str, request: Request | None, anew: bool = True) -> None:
    """The button that starts it, out of reach while the form gives no request. anew: as in start."""
    if st.button(label, type="primary", icon=icon, key="start", width="stretch", disabled=request is None):
        assert request is not None
        start(request, anew)
