"""A table on the screen. What is missing is a dash, as everywhere, and who does not see it is told what it holds."""

from __future__ import annotations

from typing import Any

import streamlit as st

from pages.ui import text


def table(rows: Any, alt: str, **more: Any) -> Any:
    """rows: dicts, or a styled frame. alt: what it holds. more: as st.dataframe takes it; its selection comes back."""
    return st.dataframe(rows, hide_index=True, placeholder=text.NONE, alt=alt, **more)
