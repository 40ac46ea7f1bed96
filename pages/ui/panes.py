"""Where things stand on a page: a form beside what comes of it, or above it where the page is narrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

_LOOK = Path(__file__).parent / "look.css"


def look() -> None:
    """The app's own style, once on every page."""
    st.html(_LOOK)


def panes(form: int = 1, view: int = 2) -> tuple[Any, Any]:
    """A narrow place for a form and a wide one for its results; form, view: how the width is shared."""
    with st.container(key="panes"):
        left, right = st.columns([form, view], gap="medium")
    return left, right


def table_height(n_rows: int, most: int = 10_000) -> int:
    """Pixels of a table with these rows under its head, and at most so many: then it scrolls."""
    return min(most, 38 + 35 * max(1, n_rows))
