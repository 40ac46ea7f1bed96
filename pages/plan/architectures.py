"""Which model shape: cut from a trained model and proven in every engine, or from scratch for a device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from core.errors import ExplorerError
from core.paths import data_dir
from core.studies import architectures, free_shapes, study_store
from core.studies.architecture_findings import FILE
from core.studies.ledger import FILE as LEDGER
from core.studies.plan import Architectures, FreeShapes
from pages.ui import architectures_view as view
from pages.ui import text
from pages.ui.architectures_form import cut_form, free_form
from pages.ui.live import moving
from pages.ui.page import fault, guard, nothing_yet, page
from pages.ui.panes import panes
from pages.ui.state import runner

CUT, FREE = "Cut from a trained model", "From scratch, for a device"


def draw_going(name: str) -> None:
    """The study that is going: how far, how long still, its last words, and a way to stop it."""

    def strip() -> bool:
        if study_store.going() != name:
            st.rerun()
        try:
            told = architectures.progress(architectures.load(data_dir() / "studies" / name))
            words = f"**{told.done}** of {told.total} steps"
            if told.failed:
                words += f" · **{told.failed}** failed"
            if told.eta is not None:
                eta = told.eta
                words += f" · about {text.seconds(eta.seconds)} ({text.seconds(eta.low)} to {text.seconds(eta.high)})"
                words += " · first estimates" if eta.first else ""
            st.progress(min(1.0, told.share), text=words)
        except ExplorerError:
            st.progress(study_store.share_done(name) or 0.0, text=f"**{text.escape(name)}** is going")
        st.code(study_store.last_words(name) or "Starting", language=None)
        st.button("Stop", icon=":material/stop_circle:", key="architectures-stop", on_click=study_store.stop)
        return True

    moving("architectures", strip, "study")


def draw_button(plan: Architectures | FreeShapes, minutes: float, begun: bool) -> None:
    busy = study_store.going() is not None or runner().active() is not None
    if st.button(
        "Go on" if begun else "Search",
        icon=":material/manage_search:",
        type="primary",
        key="architectures-start",
        disabled=busy,
    ):
        try:
            study_store.start_sweep(plan, minutes)
        except ExplorerError as error:
            fault(error)
            return
        st.session_state["architectures-shown"] = plan.name
        st.rerun()
    if busy and study_store.going() is None:
        st.caption("A run is going: stop it or wait for its end.")


def chosen_search(own: tuple[str, ...], shipped: tuple[str, ...]) -> str | None:
    """The search to look at, of those on this machine and those that came with the project."""
    names = (*own, *shipped)
    if not names:
        return None
    if st.session_state.get("architectures-shown") not in names:
        st.session_state["architectures-shown"] = names[0]

    def title(name: str) -> str:
        return f"{name} · recorded" if name in shipped else name

    chosen: str = st.selectbox("Search", names, format_func=title, key="architectures-shown")
    return chosen


def version(folder: Path) -> float:
    try:
        return (folder / LEDGER).stat().st_mtime
    except OSError:
        return 0.0


def draw_cut() -> None:
    own = architectures.searches()
    shipped = tuple(p.parent.name for p in sorted(study_store.RECORDED.glob(f"architectures-*/{FILE}")))
    name = chosen_search(own, tuple(n for n in shipped if n not in own))
    if name is None:
        nothing_yet(
            "No search yet",
            "Choose a trained model and press Search: shapes are priced, masked, trained for a while and measured.",
            ":material/account_tree:",
        )
        return
    if name in own:
        folder = data_dir() / "studies" / name
        view.draw(view.own(str(folder), version(folder)), "architectures")
    else:
        view.draw(view.recorded(str(study_store.RECORDED / name)), "architectures")


def draw_free() -> None:
    name = chosen_search(free_shapes.searches(), ())
    if name is None:
        nothing_yet(
            "No search yet",
            "Choose a device and press Search: Optuna asks for sizes, and their cost is computed; nothing is trained.",
            ":material/memory:",
        )
        return
    folder = data_dir() / "studies" / name
    view.draw_free(view.own_free(str(folder), version(folder)), "architectures-free")


with page("Architectures", "Which shape of a model buys the most speed for the least loss, and in which engine."):
    going = study_store.going()
    with st.container():  # its place stays when the study has ended
        if going is not None:
            draw_going(going)
    mode = st.segmented_control(
        "Where shapes come from", [CUT, FREE], default=CUT, key="architectures-mode", required=True
    )
    form, found = panes()
    begun: Callable[[], tuple[str, ...]] = free_shapes.searches if mode == FREE else architectures.searches
    with form, guard():
        if mode == FREE and (reason := free_shapes.unavailable()):
            st.warning(text.prose(reason), icon=":material/extension_off:")
        else:
            asked = free_form() if mode == FREE else cut_form()
            if asked is not None:
                draw_button(*asked, asked[0].name in begun())
    with found, guard():
        if mode == FREE:
            draw_free()
        else:
            draw_cut()
