"""Whether the chosen backend can run the chosen model, said before a run, with the backend that can at hand."""

from __future__ import annotations

import streamlit as st

from core import plugins
from core.models.artifacts import restorable
from core.runs.resolve import reaches
from core.types import ModelEntry
from pages.ui import text
from pages.ui.links import link
from pages.ui.pickers import backend_label, ordered_backends
from pages.ui.state import adopt_value


def runs_here(entry: ModelEntry, backend: str, key: str = "backend") -> bool:
    """Whether it can; if not, say why and what would. key: of the backend's picker."""
    if plugins.get("backend", backend).unavailable():  # which the picker says
        return False
    reason = reaches(entry, backend)
    if reason is None:
        return True
    able = next((name for name in ordered_backends() if name != "fake" and reaches(entry, name) is None), None)
    label = backend_label(able) if able else ""
    st.warning(
        f"{label} can run it." if able else text.prose(reason.hint),
        title=text.prose(reason.message),
        icon=":material/block:",
    )
    if able:
        icon = ":material/swap_horiz:"
        st.button(f"Use {label}", key=f"use-{key}", icon=icon, width="stretch", on_click=adopt_value, args=(key, able))
    if restorable(entry):
        query = {"model": entry.id, "transform": "dequantize"}
        link("pages/measure/transform.py", "Dequantize it", ":material/deployed_code:", query=query)
    return False
