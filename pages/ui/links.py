"""Links between pages that carry the run along; a page that is not there gets no link."""

from __future__ import annotations

import contextlib
from pathlib import Path

import streamlit as st
from streamlit.errors import StreamlitAPIException

from core.types import Derive, Evaluate, Generate, Task
from pages.ui.state import RUN

PAGES: dict[type[Task], str] = {  # where a run of this kind is shown
    Generate: "pages/measure/run.py",
    Evaluate: "pages/measure/evaluate.py",
    Derive: "pages/measure/transform.py",
}
_ROOT = Path(__file__).resolve().parents[2]


def exists(path: str) -> bool:
    """Whether this page (`pages/measure/run.py`) is part of the app."""
    return (_ROOT / path).is_file()


def link(
    path: str,
    label: str,
    icon: str | None = None,
    run_id: str | None = None,
    query: dict[str, str] | None = None,
) -> None:
    """A link to a page, showing `run_id` there; query: widgets to set. Nothing when the page is not in the menu."""
    if not exists(path):
        return
    try:
        st.page_link(
            path,
            label=label,
            icon=icon,
            query_params=({RUN: run_id} if run_id else {}) | (query or {}) or None,
        )
    except StreamlitAPIException:  # the page runs on its own, without the menu
        return


def go(path: str, query: dict[str, str]) -> None:
    """Leave for a page, with widgets to set there. Stays where the page is not in the menu."""
    if not exists(path):
        return
    with contextlib.suppress(StreamlitAPIException):  # the page runs on its own, without the menu
        st.switch_page(path, query_params=query)


def address(path: str, run_id: str) -> str:
    """The address that shows this run on a page of this app: `http://localhost:8501/layers?run=...`."""
    base = (st.context.url or "").split("?")[0].rstrip("/")
    root = base.rsplit("/", 1)[0] if base.count("/") > 2 else base
    return f"{root}/{Path(path).stem}?{RUN}={run_id}"
