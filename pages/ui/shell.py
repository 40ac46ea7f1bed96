"""What stands on every page: the strip of a run that is going, and this machine in the sidebar."""

from __future__ import annotations

import streamlit as st

from core.runs.progress import stage
from core.runs.store import Run
from core.types import GOING, Result
from hardware.detect import machine
from pages.ui import rest, text
from pages.ui.links import PAGES, link
from pages.ui.live import live
from pages.ui.outlook import foreseen, left_words, spent_s, stage_line
from pages.ui.pickers import backend_label
from pages.ui.state import asked_run, forget_run, open_run, runner, shows, store


def run_strip(on_run_page: bool) -> None:
    """One line while a run is going, with a way to it and a way to stop it; nothing otherwise.

    The Run page shows the run itself, so there the strip is for another run only.
    """
    going = runner().active() or rest.going()
    if going and shows(going) and not (on_run_page and asked_run() in (None, going)):
        live(open_run(going), _strip, "strip")


def _strip(run: Run, result: Result) -> None:
    if result.status not in GOING:
        return
    seen = foreseen(run)
    told = (
        f":blue-badge[:material/play_circle: Running] {text.escape(run.request.model)}",
        text.escape(backend_label(run.request.backend)),
        stage_line(stage(run.recording()), seen),
        text.clock(spent_s(run)),
        left_words(seen.left),
    )
    with st.container(
        border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="strip"
    ):
        st.markdown(" · ".join(filter(None, told)), width="content")
        with st.container(horizontal=True, width="content", vertical_alignment="center"):
            link(PAGES[type(run.request.task)], "Show", ":material/visibility:", run.id)
            st.button(
                "Stop",
                icon=":material/stop_circle:",
                type="tertiary",
                key="strip-stop",
                on_click=runner().cancel,
                args=(run.id,),
                disabled=run.cancel_requested,
            )


def missing_run_notice() -> None:
    """Say so when the address asks for a run that is not here or cannot be read; another one is shown instead."""
    asked = asked_run()
    if asked and not shows(asked):
        here, name = asked in store().ids(), text.escape(asked)
        st.warning(
            "The newest readable run is shown instead. History lists all runs.",
            title=f"The run {name} is damaged and cannot be shown" if here else f"There is no run '{name}' here",
            icon=":material/search_off:",
        )
        forget_run()


def machine_line() -> None:
    """This machine in the sidebar: processor, cores, memory, accelerators."""
    found = machine()
    cores = f"{found.usable_cores} cores" if found.usable_cores > 1 else "1 core"
    gpus = "".join(f"  \n:material/developer_board: {text.escape(gpu.name)}" for gpu in found.gpus)
    with st.sidebar:
        st.caption(
            f":material/computer: {text.escape(found.cpu)}  \n{cores} · {text.size(found.mem_bytes)} memory{gpus}",
            help="This machine, as the operating system describes it.",
        )
