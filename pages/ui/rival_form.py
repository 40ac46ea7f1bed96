"""The widgets for two ways to decode one prompt: autoregressive, and a rival that guesses."""

from __future__ import annotations

import msgspec
import streamlit as st

from core.runs.check import check
from core.types import Generate, Request, from_json, to_json
from hardware.errors import ExplorerError
from pages.ui.domain_prompt import prompt_form
from pages.ui.models import chosen_model
from pages.ui.page import fault
from pages.ui.pickers import backend_picker
from pages.ui.reach import runs_here
from pages.ui.settings_form import how_form

BASELINE = "autoregressive"


def rival_form() -> tuple[Request, Request] | None:
    """The baseline's request and the rival's; None while something is missing, which the form then says."""
    entry = chosen_model()
    backend = backend_picker()
    how = how_form(backend, entry.id if entry else None, "rival-", default="jacobi")
    prompt = prompt_form(entry.id if entry else None)
    limit = st.number_input("New tokens at most", 2, 512, 64, key="limit", bind="query-params")
    if how["strategy"] == BASELINE:
        st.warning("Choose a strategy that guesses, under Settings.", title="Nothing to compare with")
        return None
    if entry is None or prompt is None or not runs_here(entry, backend):
        return None
    task = Generate(prompt=prompt, max_new_tokens=int(limit))
    rival = Request(model=entry.id, backend=backend, task=task, profilers=(), **how)
    baseline = msgspec.structs.replace(rival, strategy=BASELINE, params={})
    try:
        _checked(to_json(baseline), to_json(rival))
    except ExplorerError as error:
        fault(error, hindrance=True)
        return None
    return baseline, rival


@st.cache_data(ttl=5, max_entries=16, show_spinner=False)
def _checked(*requests: bytes) -> None:
    """Raises ExplorerError with the first reason why one of them cannot run."""
    for request in requests:
        check(from_json(request, Request))
