"""The page of a run that makes a model: form on the left, the run on the right, models made here below."""

from __future__ import annotations

import streamlit as st

from core import plugins
from core.models import catalogue, derived
from core.runs.store import Run
from core.types import Derive, ModelEntry
from pages.ui import text
from pages.ui.derive_form import derive_form
from pages.ui.derive_view import draw_derive
from pages.ui.links import link
from pages.ui.live import live
from pages.ui.page import guard, nothing_yet, page
from pages.ui.panes import panes
from pages.ui.start import start_button
from pages.ui.state import current_run, result_of, rows_key
from pages.ui.table import table


def derive_page(title: str, about: str, trains: bool, button: str, nothing: str, first: str) -> None:
    """trains: of the transforms that train, or of the others."""
    with page(title, about):
        _notice_new_models()
        form, view = panes()
        with form, guard():
            start_button(button, ":material/deployed_code:", derive_form(trains))
        with view, guard():
            run = current_run(Derive)
            if run is None or _trains(run) != trains:
                nothing_yet(nothing, first, ":material/deployed_code:")
            else:
                live(run, draw_derive, "curves")
        with guard():
            _made_here()


def _notice_new_models() -> None:
    """The model that was just made is in the lists of this page, not half a minute later."""
    run = current_run(Derive)
    made = result_of(run).made if run is not None else None
    if made is not None and made.model not in {e.id for e in catalogue.entries()}:
        catalogue.entries(refresh=True)


def _trains(run: Run) -> bool:
    task = run.request.task
    assert isinstance(task, Derive)
    known = task.transform in plugins.names("transform")
    return known and bool(plugins.get("transform", task.transform).trains)


def _made_here() -> None:
    """Every model made on this machine, with where it came from and a way to remove it."""
    made = [e for e in catalogue.entries() if e.family == "derived"]
    if not made:
        return
    st.header("Models made here", anchor=False)
    rows = [
        {
            "Model": e.id,
            "From": e.lineage.get("parent", text.NONE),
            "Method": plugins.label("transform", str(e.lineage.get("transform", text.NONE))),
            "Size": text.size(e.size_bytes),
            "Bits per weight": e.lineage.get("bits_per_weight"),
            "Note": e.note,
        }
        for e in made
    ]
    chosen = table(
        rows,
        "Models made on this machine, with where they came from and their size",
        on_select="rerun",
        selection_mode="single-row",
        key=rows_key("made-here", (e.id for e in made)),
        column_config={"Bits per weight": st.column_config.NumberColumn(format="%.2f")},
    )
    picked = chosen.selection.rows if chosen else []
    if picked:
        _about(made[picked[0]])


def _about(entry: ModelEntry) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{text.escape(entry.id)}**", width="content")
        link("pages/measure/run.py", "Run it", ":material/play_arrow:", query={"model": entry.id})
        link("pages/measure/evaluate.py", "Evaluate it", ":material/fact_check:", query={"model": entry.id})
        with st.popover("Delete", icon=":material/delete:", type="tertiary"):
            st.caption("Its files are removed; runs made with it stay.")
            if st.button("Delete this model", key=f"delete-{entry.id}", type="primary"):
                derived.remove(entry.id)
                st.toast(f"{text.escape(entry.id)} is deleted.", icon=":material/delete:")
                st.rerun()
