"""What Streamlit's elements lack for screen readers and the keyboard, once on every page."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

_CSS = """
.said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
"""
_access = st.components.v2.component(
    "roofscope-access",
    html='<div class="said" role="log" aria-live="polite" aria-label="Text as it is generated"></div>',
    css=_CSS,
    js=Path(__file__).with_name("access.js").read_text(),
)


def access() -> None:
    """Names for small charts, keys for what scrolls and folds, and streamed text read out."""
    _access(key="access", height="content")
