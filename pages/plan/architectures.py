"""Which model shape: cut from a trained model and proven in every engine, or from scratch for a device."""

from __future__ import annotations

import streamlit as st

from core.paths import data_dir
from core.studies import architectures, free_shapes, ledger, study_store
from core.studies.plan import Architectures, FreeShapes
from hardware.files import written_s
from pages.plan import _architectures_view as view
from pages.plan._architectures_form import cut_form, free_form
from pages.ui import text
from pages.ui.page import guard, nothing_yet, page
from pages.ui.panes import panes
from pages.ui.studies import busy, draw_busy, draw_going, eta_words, start, study_picker

CUT, FREE = "Cut from a trained model", "From scratch, for a device"
SHOWN = "architectures-shown"


def told_of(name: str) -> tuple[float, str]:
    """How far a search for cut shapes is: its share, and in words. Raises ExplorerError for another kind of study."""
    told = architectures.progress(ledger.load(data_dir() / "studies" / name, Architectures))
    words = [f"**{told.done}** of {told.total} steps"]
    if told.failed:
        words.append(f"**{told.failed}** failed")
    return told.share, " · ".join((*words, *eta_words(told.eta)))


def draw_button(plan: Architectures | FreeShapes, minutes: float, begun: bool) -> None:
    if st.button(
        "Go on" if begun else "Search",
        icon=":material/manage_search:",
        type="primary",
        key="architectures-start",
        disabled=busy(),
    ):
        start(plan, minutes, SHOWN)
    draw_busy()


def chosen_search(own: tuple[str, ...], shipped: tuple[str, ...] = ()) -> str | None:
    """The search to look at, of those on this machine and those that came with the project."""
    names = (*own, *shipped)
    return study_picker("Search", names, SHOWN, shipped) if names else None


def draw_cut() -> None:
    own = ledger.names(Architectures)
    shipped = study_store.recorded_architectures()
    name = chosen_search(own, tuple(shipped))
    if name is None:
        nothing_yet(
            "No search yet",
            "Choose a trained model and press Search: shapes are priced, masked, trained for a while and measured.",
            ":material/account_tree:",
        )
        return
    if name in own:
        folder = data_dir() / "studies" / name
        view.draw(view.own(str(folder), written_s(folder / ledger.FILE)), name, "architectures")
    else:
        view.draw(view.recorded(str(shipped[name])), name, "architectures", recorded=True)


def draw_free() -> None:
    name = chosen_search(ledger.names(FreeShapes))
    if name is None:
        nothing_yet(
            "No search yet",
            "Choose a device and press Search: Optuna asks for sizes, and their cost is computed; nothing is trained.",
            ":material/memory:",
        )
        return
    folder = data_dir() / "studies" / name
    view.draw_free(view.own_free(str(folder), written_s(folder / ledger.FILE)), name, "architectures-free")


with page("Architectures", "Which shape of a model buys the most speed for the least loss, and in which engine."):
    with st.container():  # its place stays when the study has ended
        draw_going("architectures", told_of)
    mode = st.segmented_control(
        "Where shapes come from", [CUT, FREE], default=CUT, key="architectures-mode", required=True
    )
    form, found = panes()
    with form, guard():
        if mode == FREE and (reason := free_shapes.unavailable()):
            st.warning(text.prose(reason), icon=":material/extension_off:")
        else:
            asked = free_form() if mode == FREE else cut_form()
            if asked is not None:
                plan, minutes = asked
                draw_button(plan, minutes, plan.name in ledger.names(type(plan)))
    with found, guard():
        if mode == FREE:
            draw_free()
        else:
            draw_cut()
