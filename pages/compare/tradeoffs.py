"""What an optimization costs and buys: the front of speed, memory, energy and quality, and whether it is real."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from core.report.studies import export_study
from core.studies import study_store
from core.studies.findings import Findings
from core.studies.standings import Standings
from core.studies.study_list import KINDS
from hardware.errors import ExplorerError
from pages.compare._benchmark_view import draw_benchmark
from pages.compare._ladder_view import draw_ladder
from pages.ui.page import fault, guard, nothing_yet, page
from pages.ui.share import study_menu
from pages.ui.state import store
from pages.ui.studies import busy, draw_busy, draw_going

_MODEL = "smollm2-135m"


def draw_start() -> None:
    """Start a study here; the same button goes on with one that was stopped."""
    with st.popover("Run a study", icon=":material/play_arrow:"):
        kind = st.selectbox("Study", list(KINDS), format_func=lambda k: KINDS[k].label, key="study-kind")
        minutes = st.number_input("Minutes", 5.0, 600.0, KINDS[kind].minutes, 5.0, key=f"minutes-{kind}")
        st.caption(
            f"It makes and measures many variants of {_MODEL}, one after the other, and keeps this machine busy. "
            f"Headless: `python -m core study {kind}`. A study that was stopped goes on where it was."
        )
        if st.button("Start", type="primary", key="start-study", disabled=busy(), width="stretch"):
            try:
                study_store.start(kind, _MODEL, minutes)
            except ExplorerError as error:
                fault(error)
                return
            st.rerun()
        draw_busy()


with page("Trade-offs", "How much cheaper can it run before it gets noticeably worse, and is the difference real?"):
    there = study_store.studies()
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        chosen = None
        if there:
            names = {s.path: f"{s.name}{' · recorded' if s.recorded else ''}" for s in there}
            chosen = st.selectbox("Study", list(names), format_func=names.__getitem__, key="study", width=420)
        draw_start()
    draw_going("study")
    if chosen is None:
        nothing_yet(
            "No study yet",
            "Run a study: it makes a ladder of variants, measures them in turn, and says which differences are real.",
            ":material/balance:",
        )
    else:
        with guard():
            found = study_store.read(chosen)
            if isinstance(found, Findings):
                draw_ladder(found)
            elif isinstance(found, Standings):
                draw_benchmark(found)
            name = Path(chosen).name
            own = study_store.has_ledger(name)
            study_menu(name, "study-share", lambda fmt: export_study(name, fmt, store()), bundled=own)
