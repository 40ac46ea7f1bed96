"""A choice whose name is in the address while its label is on the screen.

Streamlit's own binding writes the label into the address; labels change, names do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from pages.ui.state import adopt, publish


def select(
    label: str, names: Sequence[str], show: Callable[[str], str], key: str, default: str | None = None, **more: Any
) -> str | None:
    """A select box over names; remembered for the tab, and in the address under `key`.

    default: the name that is chosen at first, and not worth mentioning in the address; else the first one.
    """
    usual = default or (names[0] if names else None)
    adopt(key, names, usual, free=bool(more.get("accept_new_options")))
    chosen: str | None = st.selectbox(label, names, format_func=show, key=key, persist_state="session", **more)
    publish(key, chosen, usual)
    return chosen
