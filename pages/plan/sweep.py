"""Every combination of the settings you choose, measured: a grid that stops, goes on, and says what cannot run."""

from __future__ import annotations

from functools import partial

import streamlit as st

from core.paths import data_dir
from core.runs.foresight import foreseen
from core.studies import ledger, study_store, sweep
from core.studies.divided import divided
from core.studies.grid import MOST_CELLS, cells, size
from core.studies.plan import Search, Sweep
from core.types import from_json, to_json
from pages.plan import _search_view as search_view
from pages.plan._sweep_form import Wanted, sweep_form
from pages.ui import text
from pages.ui.live import moving, ticks
from pages.ui.page import guard, nothing_yet, page
from pages.ui.panes import panes, table_height
from pages.ui.state import store
from pages.ui.studies import busy, draw_busy, draw_going, start, study_picker
from pages.ui.sweep_view import draw_report, progress_words, report_of, sweep_told
from pages.ui.table import table

ALL, SEARCH = "Measure all", "Search for the best"
COMPARE, DIVIDE = "measures all", "takes its share"
SHOWN = "sweep-shown"


@st.cache_data(ttl=60, max_entries=16, show_spinner="Asking which cells can run")
def _looked_at(root: str, plan: bytes) -> tuple[dict[str, str], float]:
    """Cell -> why it cannot run; and the seconds that the others may take, a first estimate."""
    every = cells(from_json(plan, Sweep))
    refused, expected = sweep.foretold(every, foreseen([c.request for c in every], store()))
    return refused, sum(expected.values())


def draw_plan(wanted: Wanted, mode: str) -> None:
    """How many cells, what cannot run and why, how long it may take, and what the mode does with them."""
    plan = wanted.plan
    n = size(plan)
    if n > MOST_CELLS:
        st.warning(
            f"At most {MOST_CELLS:,} are carried out in one sweep. Take values away.",
            title=f"This grid has {n:,} cells",
            icon=":material/grid_off:",
        )
        return
    every = cells(plan)
    refused, seconds = _looked_at(str(data_dir()), to_json(plan))
    ready = len(every) - len(refused)
    doubled = f", {len(every)} of them different" if len(every) < n else ""
    words = f"**{n:,}** cells{doubled}: **{ready}** can run"
    if refused:
        words += f", {len(refused)} cannot"
    if ready:
        words += f" · about {text.roughly(seconds * plan.rounds)} {text.provenance('estimated')}"
    st.markdown(words, help=text.provenance_help())
    _draw_refused({c.label: refused[c.id] for c in every if c.id in refused})
    if not ready:
        st.caption("Nothing in this grid can run here: the reasons are above.")
    if wanted.elsewhere:
        st.caption("This was asked of this machine; the others say themselves what cannot run there.")
        ready = ready or len(every)
    if mode == SEARCH:
        search_view.draw_ask(plan, wanted.minutes, ready, wanted.elsewhere)
    else:
        _draw_buttons(_shared_out(wanted, len(every)) if wanted.elsewhere else wanted, ready)


def _shared_out(wanted: Wanted, n: int) -> Wanted:
    """The same as the user wants it on several machines."""
    how = st.radio(
        "Each machine",
        [COMPARE, DIVIDE],
        captions=[f"All {n} cells, to compare machines.", "Some of them, to be sooner done: machines of one kind."],
        key="sweep-divide",
    )
    if how == COMPARE:
        return wanted
    return wanted._replace(plan=divided(wanted.plan), elsewhere=(*wanted.elsewhere, "--divide"))


def _draw_buttons(wanted: Wanted, ready: int) -> None:
    """Measure all of it, go on, or try again what failed."""
    plan = wanted.plan
    there = plan.name in ledger.names(Sweep)
    left = sweep.progress(ledger.load(ledger.folder_of(plan), Sweep)) if there else None
    if left is not None:
        st.caption(f"This grid was begun: {progress_words(left)}")
    with st.container(horizontal=True, vertical_alignment="center"):
        label = "Go on" if left is not None and left.left else "Measure it"
        done = left is not None and not left.left
        off = busy() or not ready or done
        if st.button(label, icon=":material/play_arrow:", type="primary", key="sweep-start", disabled=off):
            start(plan, wanted.minutes, SHOWN, *wanted.elsewhere)
        if left is not None and left.failed:
            retry = "Try the failed ones again"
            if st.button(retry, icon=":material/replay:", key="sweep-retry", disabled=busy()):
                start(plan, wanted.minutes, SHOWN, *wanted.elsewhere, "--retry")
    draw_busy()


def _draw_refused(refused: dict[str, str]) -> None:
    if not refused:
        return
    with st.expander(f"{len(refused)} cannot run", icon=":material/block:", expanded=len(refused) <= 3):
        table(
            [{"Cell": label, "Why": reason} for label, reason in refused.items()],
            height=table_height(len(refused), 300),
            alt="Cells that cannot run, with the reason",
        )


def told(name: str) -> tuple[float, str]:
    """How far a sweep or a search is: its share, and in words. Raises ExplorerError for a study of another kind."""
    return search_view.search_told(name) if ledger.is_of(name, Search) else sweep_told(name)


def draw_found(mode: str) -> bool:
    """A sweep or a search that was begun, chosen from all of them; whether one is going, of which more will come."""
    kind, label, shown = (Search, "Search", search_view.SHOWN) if mode == SEARCH else (Sweep, "Sweep", SHOWN)
    names, going = ledger.names(kind), study_store.going()
    now = going if going is not None and ledger.is_of(going, kind) else None
    if now is not None and now not in names and (not names or st.session_state.get(shown) == now):
        nothing_yet("Nothing to show yet", "Each cell is drawn here when it is measured.", ":material/hourglass_top:")
    elif names:
        chosen = study_picker(label, names, shown)
        with ticks(now is not None):
            if mode == SEARCH:
                search_view.draw_report(search_view.report_of(chosen), now == chosen)
            else:
                draw_report(report_of(chosen), "sweep")
    elif mode == SEARCH:
        nothing_yet(
            "No search yet",
            "Say what is to become better and within which limits, and press Search.",
            ":material/search:",
        )
    else:
        nothing_yet(
            "No sweep yet",
            "Choose values on the left and press Measure it: each combination becomes a run.",
            ":material/grid_on:",
        )
    return now is not None


with page("Sweep", "Every combination of the settings you choose, measured; or a search for the best of them."):
    with st.container():  # its place stays when the sweep has ended
        draw_going("sweep", told)
    form, view = panes()
    with form, guard():
        asked = sweep_form()
    with view:
        mode = st.segmented_control(
            "What to do with the cells",
            [ALL, SEARCH],
            default=ALL,
            key="sweep-mode",
            required=True,
            help="A search predicts every cell and measures a part: those that may be best within your limits.",
        )
        if asked is not None:
            with guard(), st.container(border=True):
                draw_plan(asked, mode)
        with guard():
            moving("sweep-found", partial(draw_found, mode), "cells")
