"""What the cloud says of the replicas in the minutes of a run, under its own name, apart from the run's numbers."""

from __future__ import annotations

import time

import streamlit as st

from core.endpoints.monitoring import Platform, rows
from core.runs import platform
from core.runs.store import Run
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.page import fault
from pages.ui.table import table

SAMPLES = ":violet-badge[:material/cloud: platform, 60 s samples]"


def draw_platform(run: Run) -> None:
    """The samples, or when they can be fetched; nothing for a run that asked no endpoint of Vertex AI."""
    if platform.of_cloud(run) is None:
        return
    found = platform.kept(run)
    with st.expander("What the platform says", icon=":material/cloud:", expanded=found is not None):
        wait_s = platform.wait_s(run)
        if found is not None:
            _draw(found)
        elif wait_s:
            when = time.strftime("%H:%M", time.localtime(time.time() + wait_s + 59))
            st.caption(f"Its samples can be seen up to six minutes behind the load: fetch them at {when} or later.")
        words = "Fetch the samples" if found is None else "Fetch again"
        if st.button(words, icon=":material/cloud_download:", key=f"platform-{run.id}", disabled=wait_s > 0):
            try:
                with st.spinner("Asking Cloud Monitoring"):
                    platform.fetch(run)
            except ExplorerError as error:
                fault(error)
            else:
                st.rerun()


def _draw(found: Platform) -> None:
    named = {replica: f"{n} of {len(found.replicas)}" for n, replica in enumerate(found.replicas, 1)}
    st.markdown(f"{SAMPLES} of each replica in the minutes of this run, whatever it did then")
    table(
        [
            {
                "What": row.what,
                "Replica": named.get(row.replica, "all"),
                "Samples": row.n,
                "Least": text.in_unit(row.low, row.unit),
                "Middle": text.in_unit(row.middle, row.unit),
                "Most": text.in_unit(row.high, row.unit),
                "Id": row.replica or None,
            }
            for row in rows(found)
        ],
        alt="Samples of Cloud Monitoring for the replicas in the minutes of this run",
        column_config={"What": st.column_config.TextColumn(pinned=True, width=190)},
    )
    notes = ["Memory is what a replica holds, most of it reserved for the cache, and not what a request needs."]
    if found.brief:
        notes.append("The run was shorter than three minutes, which is hardly a sample of its own.")
    if found.missing:
        notes.append(f"No samples of: {', '.join(found.missing).lower()}.")
    st.caption(text.escape(" ".join(notes)))
