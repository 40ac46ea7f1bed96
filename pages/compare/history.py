"""All runs on this machine: find, open, compare, import, export, delete."""

from __future__ import annotations

import streamlit as st

from core.report.study_bundle import load_any
from core.runs.history import matching
from hardware.errors import ExplorerError
from pages.compare._history_table import history_table
from pages.ui import text
from pages.ui.page import empty, fault, guard, page
from pages.ui.pickers import run_line
from pages.ui.run_report import export_menu
from pages.ui.state import asked_run, choose_run, forget_run, open_run, readable, store


def show(run_id: str) -> None:
    choose_run(run_id)
    st.switch_page("pages/measure/run.py", query_params={"run": run_id})


def compare(first: str, second: str) -> None:
    st.switch_page("pages/compare/compare.py", query_params={"first": first, "second": second})


@st.dialog("Delete runs", icon=":material/delete:")
def confirm_delete(ids: list[str]) -> None:
    with guard():
        what = "this run" if len(ids) == 1 else f"these {len(ids)} runs"
        st.markdown(f"Delete {what} for good? What was measured cannot be made again exactly.")
        lines = [text.escape(run_line(store().open(i)) if readable(i) else i) for i in ids[:8]]
        st.caption("  \n".join(lines) + ("  \n…" if len(ids) > 8 else ""))
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Keep", key="delete-no"):
                st.rerun()
            if st.button("Delete", type="primary", icon=":material/delete:", key="delete-yes"):
                kept = store().delete_all(ids)
                if asked_run() in ids:
                    forget_run()
                if n := len(ids) - len(kept):
                    words = "The run is deleted." if n == 1 else f"{n} runs are deleted."
                    st.toast(words, icon=":material/delete:")
                if not kept:
                    st.rerun()
                for error in kept:
                    fault(error)


@st.dialog("Import", icon=":material/upload:")
def import_run() -> None:
    with guard():
        file = st.file_uploader(
            "Bundle of a run or a study (zip)", type="zip", help="Made by Export or Share, here or on another machine."
        )
        if file is None:
            return
        known = store().ids()
        try:
            found = load_any(file.getvalue(), store())
        except ExplorerError as error:
            fault(error)
            return
        if isinstance(found, str):
            words = f"Imported with its runs: {text.escape(found)}. Its page lists it: Sweep or Trade-offs."
            st.success(words, icon=":material/check:")
            return
        choose_run(found.id)
        done = "This run is here already" if found.id in known else "Imported"
        st.toast(f"{done}: {text.escape(found.request.model)}, {text.when(found.created_s)}.", icon=":material/check:")
        st.rerun()


def actions(selected: list[str], usable: list[str]) -> None:
    """What can be done with the selected runs."""
    one = usable[0] if len(selected) == 1 and usable else None
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(
            "Open",
            icon=":material/open_in_new:",
            key="open",
            disabled=one is None,
            help="Select one row.",
            type="primary" if one else "secondary",
        ):
            assert one is not None
            show(one)
        if st.button(
            "Compare",
            icon=":material/compare_arrows:",
            key="compare",
            disabled=len(usable) != 2,
            help="Select two rows.",
            type="primary" if len(usable) == 2 else "secondary",
        ):
            compare(usable[1], usable[0])  # the older run is the reference
        if one:
            export_menu(open_run(one))
        if st.button(
            "Delete",
            icon=":material/delete:",
            key="delete",
            disabled=not selected,
            type="tertiary",
            help="Select rows.",
        ):
            confirm_delete(selected)


with page("History", "All runs kept here, own and imported. Select one to open or export it, two to compare them."):
    rows = store().history()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        words = st.text_input(
            "Search",
            key="search",
            type="search",
            icon=":material/search:",
            placeholder="Model, backend, name, note, text …",
            label_visibility="collapsed",
            bind="query-params",
        )
        if st.button("Import", icon=":material/upload:", key="import"):
            import_run()
    found = matching(rows, words or "")
    if not rows:
        empty("No runs yet", "Every run you make is kept here. You can also import one.", ":material/history:")
    elif not found:
        empty("Nothing found", "No run contains all of these words.", ":material/search_off:")
    else:
        n = f"{len(rows)} runs" if len(rows) != 1 else "1 run"
        keys = "By keyboard: Tab into the table, arrows to a run, Shift+Space selects it; Tab goes on to the buttons."
        st.caption(n if len(found) == len(rows) else f"{len(found)} of {n}", help=keys)
        selected = history_table(found, "history")
        damaged = {row["run_id"]: row["error"] for row in found if row["status"] == "damaged"}
        actions(selected, [run_id for run_id in selected if run_id not in damaged])
        if damaged:
            st.caption(
                f":material/broken_image: {len(damaged)} damaged, because the folder cannot be read. "
                "Select and delete it, or repair it in the data folder."
            )
