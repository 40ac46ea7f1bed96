"""The widgets for one configuration of a dialogue."""

from __future__ import annotations

import streamlit as st

from core import plugins
from core.models import catalogue
from core.types import Generate, ModelEntry, Request, Sampling
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.models import architecture_line, model_picker, spec_of
from pages.ui.page import fault
from pages.ui.pickers import backend_label, backend_picker, strategy_label
from pages.ui.reach import runs_here
from pages.ui.settings_form import how_form
from pages.ui.template_form import template_form


def side_form(prefix: str, backend: str, title: str) -> Request | None:
    """Model, backend and settings: a request without a question; None while the form says that something is missing."""
    chosen = model_picker(f"{prefix}-model", f"{title} model")
    backend_name = backend_picker(f"{prefix}-backend", f"{title} backend", default=backend)
    how = how_form(backend_name, chosen, f"{prefix}-", title=f"{title} settings")
    with st.popover(f"{title} answer", icon=":material/short_text:", width="stretch"):
        limit = st.number_input("New tokens at most", 1, 4096, 96, key=f"{prefix}-limit", bind="query-params")
        temperature = st.slider("Temperature", 0.0, 2.0, 0.0, 0.05, key=f"{prefix}-temperature", bind="query-params")
        joules = st.toggle(
            "Measure energy",
            True,
            key=f"{prefix}-joules",
            bind="query-params",
            help="Each answer is then produced once more: energy has a pass of its own.",
        )
        silent = st.toggle(
            "Measure in silence",
            True,
            key=f"{prefix}silent",
            bind="query-params",
            help="Each answer is shown as it comes and then produced once more, timed while the screen rests.",
        )
        template = template_form(_found(chosen), f"{prefix}-")
    if not chosen or plugins.get("backend", backend_name).unavailable():
        return None
    try:
        entry = catalogue.find(chosen)
        st.caption(architecture_line(spec_of(entry), entry.size_bytes))
    except ExplorerError as error:
        fault(error, hindrance=True)
        return None
    if not runs_here(entry, backend_name, f"{prefix}-backend"):
        return None
    task = Generate(max_new_tokens=int(limit), sampling=Sampling(temperature=temperature), **template)
    profilers = ("memory", "energy") if joules else ("memory",)
    return Request(model=entry.id, backend=backend_name, task=task, profilers=profilers, live=silent, **how)


def side_label(side: Request) -> str:
    """What to call a configuration."""
    label = (side.model, backend_label(side.backend), side.dtype, strategy_label(side.strategy))
    return text.escape(" · ".join(filter(None, label)))


def _found(model: str | None) -> ModelEntry | None:
    try:
        return catalogue.find(model) if model else None
    except ExplorerError:  # which is said below the fields
        return None
