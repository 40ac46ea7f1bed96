"""Where things stand on a page: a form beside what comes of it, or above it where the page is narrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

_LOOK = Path(__file__).parent / "look.css"


def look() -> None:
    """The app's own style, once on every page."""
    st.html(_LOOK)


def panes() -> tuple[Any, Any]:
    """A narrow place for a form and a wide one for its results."""
    with st.container(key="panes"):
        form, view = st.columns([1, 2], gap="medium")
    return form, view
