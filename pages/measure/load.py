"""Put load on a model server: how latency, throughput and goodput change with it, and how much it can take."""

from __future__ import annotations

import streamlit as st

from core.endpoints.address import address
from core.loadtest.load_store import LoadStore
from core.loadtest.plan import Plan, expected_s
from core.paths import data_dir
from hardware.errors import ExplorerError
from pages.measure._load_form import load_form
from pages.measure._load_view import draw_load
from pages.ui import text
from pages.ui.choices import select
from pages.ui.page import fault, guard, nothing_yet, page
from pages.ui.panes import panes
from pages.ui.state import adopt_value, open_load

CHOSEN = "load"


def start_button(plan: Plan | None) -> None:
    """Start it in a process of its own; while something is measured, say what."""
    loads = LoadStore(data_dir())
    if not st.button(
        "Start", type="primary", icon=":material/speed:", key="load-start", width="stretch", disabled=plan is None
    ):
        return
    assert plan is not None
    try:
        test = loads.start(plan, address(plan.address).loopback)
    except ExplorerError as error:
        fault(error)
        return
    adopt_value(CHOSEN, test.id)
    st.rerun()


with page(
    "Load test",
    "Many requests at once: what the server can do, what its users feel, and how much of it meets your limits.",
):
    form, view = panes()
    with form, guard():
        top = st.container()
        plan = load_form()
        with top:
            start_button(plan)
            if plan is not None:
                st.caption(f"Takes about {text.seconds(expected_s(plan))}, at most {plan.max_minutes:g} min.")
    with view, guard():
        loads = LoadStore(data_dir())
        rows = {row["id"]: row for row in loads.rows()}
        if not rows:
            nothing_yet(
                "No load test yet",
                "Type the address of a model server and press Start. `roofscope load URL` does the same.",
                ":material/speed:",
            )
        else:
            chosen = select(
                "Load test",
                list(rows),
                lambda n: f"{text.when(rows[n]['created_s'])} · {rows[n]['address']} · {rows[n]['load']}",
                CHOSEN,
                next(iter(rows)),
            )
            if chosen is not None:
                draw_load(open_load(chosen))
