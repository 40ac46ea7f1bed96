"""What the pages of studies share: which one to look at, how far the one is that is going, and how one is started."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence

import streamlit as st

from core.analysis.eta import Eta
from core.studies import ledger, study_store
from core.studies.plan import Architectures, FreeShapes, Search, Sweep
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.live import moving
from pages.ui.page import fault
from pages.ui.state import runner


def study_picker(label: str, names: Sequence[str], key: str, recorded: Collection[str] = ()) -> str:
    """Choose one of these studies, of which there is at least one; the first until another is chosen.

    recorded: those that came with the project, which have no ledger.
    """
    if st.session_state.get(key) not in names:
        st.session_state[key] = names[0]
    titles = {name: f"{name} · recorded" if name in recorded else ledger.title(name) for name in names}
    chosen: str = st.selectbox(label, names, format_func=lambda n: titles.get(n, n), key=key)
    return chosen


def draw_going(key: str, told: Callable[[str], tuple[float, str]] | None = None) -> None:
    """The study that is going, if one is: how far, its last words, and a way to stop it. At a page's top level.

    told: its share and the words beside the bar. Of a study for which it raises ExplorerError, being of another kind,
    and without it, the share of its time is told.
    """
    name = study_store.going()
    if name is None:
        return

    def strip() -> bool:
        if study_store.going() != name:
            st.rerun()
        share = study_store.share_done(name)
        words = f"**{text.escape(name)}**" + (f" · {text.percent(share)} of its time" if share is not None else "")
        if told is not None:
            with contextlib.suppress(ExplorerError):
                share, words = told(name)
        st.progress(min(1.0, share or 0.0), text=words)
        st.code(study_store.last_words(name) or "Starting", language=None)
        st.button("Stop", icon=":material/stop_circle:", key=f"{key}-stop", on_click=study_store.stop)
        return True

    moving(key, strip, "study")


def eta_words(eta: Eta | None) -> list[str]:
    """`about 4 min 10 s (3 min to 6 min)`, and whether that is a first estimate; nothing where none is known."""
    if eta is None:
        return []
    words = [f"about {text.roughly(eta.seconds)} ({text.roughly(eta.low)} to {text.roughly(eta.high)})"]
    return [*words, "first estimates"] if eta.first else words


def busy() -> bool:
    """Whether a study or a run is going, beside which none can be started."""
    return study_store.going() is not None or runner().active() is not None


def draw_busy() -> None:
    """Why none can be started, where the strip of a study does not say it."""
    if busy() and study_store.going() is None:
        st.caption(":material/front_hand: A run is going: stop it or wait for its end.")


def start(plan: Sweep | Search | Architectures | FreeShapes, minutes: float, picker: str = "", *more: str) -> None:
    """Start a study, or go on with it; what hinders it is shown in place.

    picker: the key of the one that then shows it. more: further arguments of the command that carries it out.
    """
    try:
        study_store.start_sweep(plan, minutes, *more)
    except ExplorerError as error:
        fault(error)
        return
    if picker:
        st.session_state[picker] = plan.name
    st.rerun()
