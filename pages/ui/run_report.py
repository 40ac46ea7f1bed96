"""What stands below a run that has ended: what to know, where the numbers come from, where to go next."""

from __future__ import annotations

import streamlit as st

from core.report.run_forms import export_run, offered
from core.runs.store import Run
from core.types import GOING, Failed, Result
from pages.ui import marks, text
from pages.ui.energy_view import draw_energy
from pages.ui.links import address, link
from pages.ui.page import empty
from pages.ui.platform_view import draw_platform
from pages.ui.served_view import draw_served
from pages.ui.share import Form, download
from pages.ui.state import result_of

_FILES = {
    "json": ("Everything as JSON", ":material/data_object:"),
    "layers.csv": ("Layers as CSV", ":material/table_rows:"),
    "steps.csv": ("Steps as CSV", ":material/list:"),
    "items.csv": ("Items as CSV", ":material/fact_check:"),
    "curve.csv": ("Training curves as CSV", ":material/show_chart:"),
    "html": ("One page with live charts (HTML)", ":material/html:"),
    "notexts.html": ("The same without prompt and answer", ":material/visibility_off:"),
    "zip": ("Bundle that redraws every chart", ":material/folder_zip:"),
    "notexts.zip": ("Bundle without texts, paths and names", ":material/visibility_off:"),
}


def draw_end(run: Run, result: Result) -> None:
    """Warnings, provenance, links and files."""
    draw_disturbance(result)
    for warning in result.warnings:
        st.warning(text.escape(warning), icon=":material/warning:")
    draw_energy(result)
    draw_served(result)
    draw_platform(run)
    draw_provenance(result)
    draw_links(run)


def draw_disturbance(result: Result) -> None:
    """Say that the speeds are not the machine's own, and why."""
    found = result.disturbance
    if found is not None and found.disturbed:
        with st.container(border=True):
            st.markdown(
                f"{marks.badge(result)} {text.escape(found.sentence)}", help=marks.numbers(found), width="content"
            )
            st.caption(marks.HINT)


def draw_failure(run: Run, result: Result) -> None:
    """The cause, the next step, and the last lines of the worker's log."""
    if result.status == "failed" and result.error:
        st.error(
            text.escape(result.hint or "Run again, or try another backend."),
            title=text.escape(result.error),
            icon=":material/error:",
        )
        log = next((e.log for e in reversed(run.events()) if isinstance(e, Failed)), "")
        if log:
            with st.expander("Last lines of the worker's log", icon=":material/terminal:"):
                st.code(log, language=None, height=240)
    elif result.status == "interrupted":
        st.warning(
            "Run it again. What was measured until then is kept and shown.",
            title="The run was interrupted: the process that ran it is gone",
            icon=":material/power_off:",
        )


def draw_closed(run: Run, result: Result) -> None:
    """In place of a page that explains a model: it is being opened, or it never was."""
    if result.status in GOING:
        empty(
            "The model is not open yet",
            "What it is made of stands here as soon as it is.",
            ":material/hourglass_empty:",
        )
        return
    draw_failure(run, result)
    empty("This run ended before its model was open", "There is nothing of it to show here.", ":material/block:")


def draw_provenance(result: Result) -> None:
    """One caption: measured, on what, by which versions, at which extra cost."""
    line = text.setup_line(result.setup, result.host, own_loop=result.strategy == "native")
    if not line:
        return
    extra = marks.profiler_line(result.profiler_costs)
    parts = [text.provenance("measured"), text.escape(line)]
    if result.options:
        parts.append(text.escape(", ".join(f"{name} {value}" for name, value in result.options.items())))
    if result.batch > 1:
        full = result.batch_filled
        short = full is not None and full < 1
        parts.append(f"batch {result.batch}{f', {text.percent(full)} full on average' if short else ''}")
    if extra:
        parts.append(extra)
    st.caption(" · ".join(parts), help=text.provenance_help())


def draw_links(run: Run) -> None:
    """The pages that explain this run, its files, and a link to it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        link("pages/understand/layers.py", "Layers", ":material/account_tree:", run.id)
        link("pages/understand/roofline.py", "Roofline", ":material/stacked_line_chart:", run.id)
        link("pages/understand/memory.py", "Memory", ":material/memory:", run.id)
        link("pages/compare/compare.py", "Compare", ":material/compare_arrows:", run.id)
        export_menu(run)
        with st.popover("Share", icon=":material/link:", type="tertiary"):
            st.caption("This link shows the run on this machine. To show it elsewhere, send the bundle.")
            st.code(address("pages/measure/run.py", run.id), language=None)


def export_menu(run: Run) -> None:
    """Each file is made only when it is asked for."""
    with st.popover("Export", icon=":material/download:", type="tertiary"):
        for fmt in offered(run, result_of(run)):
            label, icon = _FILES.get(fmt, (fmt, ":material/download:"))
            form = Form(label, f"roofscope-{run.id}.{fmt}", lambda fmt=fmt: export_run(run, fmt))  # type: ignore[misc]
            download(form, f"export-{fmt}-{run.id}", icon, "tertiary")
