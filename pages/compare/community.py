"""One's own machine among those of others: rows with their machines' own ceilings, the doubtful ones set apart."""

from __future__ import annotations

import datetime
from typing import Any

import streamlit as st

from core.community import hub
from core.community.board import Board, Standing, board
from core.community.checks import doubts
from core.community.gather import row_of
from core.community.picture import picture
from core.community.row import Row, encoded
from core.community.row_store import RowStore
from core.paths import data_dir
from core.studies import many_runs
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.choices import select
from pages.ui.figure import figure
from pages.ui.page import fault, guard, nothing_yet, page
from pages.ui.share import Form, share_menu
from pages.ui.state import remembered, store
from pages.ui.table import table

ABOUT = "Rows of many machines, each with its machine's own ceilings: how fast is mine, and can that figure be true?"


@st.cache_data(max_entries=4, show_spinner="Reading the runs")
def own_runs(root: str, ids: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Label of a configuration -> its runs. Changes with the runs: those that are over do not change."""
    view = many_runs.view(many_runs.entries([store().open(run_id) for run_id in ids]))
    return {f"{line.label}{f' · {view.shared}' if view.shared else ''}": line.entry.runs for line in view.lines}


def draw_board(found: Board, chosen: str) -> None:
    """The machines of one configuration: the chart and the table."""
    chart = picture(found, chosen)
    if chart is not None:
        figure(chart, key=f"community-{chosen}")
        st.caption(
            "The dashed line is what the memory could feed if a token's bytes came from it alone; a cache that holds "
            "part of them lifts a machine above it. What is set apart and far beyond is drawn at the top. "
            f"{text.provenance('measured')} {text.provenance('computed')}",
            help=text.provenance_help(),
        )
    shown = [s for s in found.standings if s.configuration == chosen]
    table(
        [_cells(s) for s in shown],
        alt="Machines by tokens per second, with the share of their own roof that they reach",
    )
    more = f" {found.n_doubled} older or slower rows of the same contributors are left out." if found.n_doubled else ""
    st.caption(
        "The median over contributors, each counted once with the quickest of its thread counts; in brackets the "
        f"slowest and the quickest. ~ marks a machine on which something else ran.{more}"
    )


def _cells(s: Standing) -> dict[str, Any]:
    between = f" [{text.token_rate(s.low)}, {text.token_rate(s.high)}]" if s.n > 1 else ""
    return {
        "Machine": f"{'★ ' if s.own else ''}{s.machine}",
        "Decode speed": f"{'~ ' if s.hot else ''}{text.token_rate(s.tok_per_s)}{between}",
        "First token": text.seconds(s.ttft_s),
        "Of its roof": text.percent(s.of_roof),
        "Memory": text.bandwidth(s.memory_bytes_per_s),
        "Peak memory": text.size(s.peak_memory_bytes),
        "Energy": text.NONE if s.joules_per_token is None else text.si(s.joules_per_token, "J/token"),
        "Contributors": s.n,
        "Mine": "yes" if s.own else "",
    }


def draw_apart(found: Board) -> None:
    """Rows that are not believed, with every reason; they are kept, for the reason may be wrong."""
    if not found.doubtful:
        return
    n = len(found.doubtful)
    with st.expander(f"{n} row{'s' * (n != 1)} set apart", icon=":material/policy_alert:", expanded=n <= 5):
        table(
            [
                {
                    "Why": " ".join(d.reason for d in apart.doubts),
                    "Said": text.token_rate(apart.row.tok_per_s),
                    "Configuration": apart.row.label,
                    "Machine": apart.row.machine.label,
                    "Mine": "yes" if apart.own else "",
                    "Row": apart.row.id,
                }
                for apart in found.doubtful
            ],
            alt="Rows that are doubtful, with the reasons",
            column_config={"Why": st.column_config.TextColumn(width="large")},
        )
        st.caption(
            "They count nowhere. Tokens, durations, spread, computed work and the ceilings of the row are asked."
        )


def draw_import(row_store: RowStore) -> None:
    with st.popover("Import files", icon=":material/upload:"):
        files = st.file_uploader(
            "Files of rows",
            type=["json", "jsonl"],
            accept_multiple_files=True,
            key="community-files",
            help="JSON, or JSON line by line, as this page and `roofscope community` write them.",
        )
        for file in files or ():
            try:
                taken = row_store.take_in(file.name, file.getvalue())
            except ExplorerError as error:
                fault(error)
                continue
            st.caption(
                f"{text.escape(file.name)}: {taken.n_new} new, {taken.n_known} here already, "
                f"{len(taken.refused)} refused"
            )
            for reason in taken.refused[:5]:
                st.caption(f":material/block: {text.escape(reason)}")


def draw_own(row_store: RowStore) -> None:
    """A row of one's own runs: chosen, looked at, kept."""
    with st.expander("Add a row from my own runs", icon=":material/add_chart:"):
        here = [run.id for run in many_runs.newest_runs(store()) if not run.origin]
        runs = own_runs(str(data_dir()), tuple(here))
        if not runs:
            st.caption("No finished run is here. Make one with random prompt tokens and at least three repeats.")
            return
        label = st.selectbox("Runs", list(runs), key="community-own")
        made: dict[str, Row] = remembered("community-made", dict)
        if label and st.button("Look at its row", icon=":material/visibility:", key="community-look"):
            made.clear()
            try:
                opened = [store().open(run_id) for run_id in runs[label]]
                made[label] = row_of(opened, store().root, row_store.contributor)
            except ExplorerError as error:
                fault(error, hindrance=True)
        row = made.get(label or "")
        if row is None:
            return
        for doubt in doubts(row, datetime.date.today()):
            st.warning(text.escape(doubt.reason), icon=":material/policy_alert:")
        st.code(encoded(row).decode(), language="json", height=260)
        st.caption("This is all that the row holds. No prompt, answer, path or name; keeping it sends nothing.")
        if st.button("Keep it here", icon=":material/save:", type="primary", key="community-keep"):
            row_store.keep(row)
            made.clear()
            st.toast("The row is kept and stands in the table.", icon=":material/check:")
            st.rerun()


def draw_send(row_store: RowStore, found: Board) -> None:
    """Sends rows of one's own, after every byte was shown and somebody said yes."""
    apart = {d.row.id for d in found.doubtful}
    own = {row.id: row for row in row_store.rows()[0] if row.id not in apart}
    with st.expander("Send my rows to a data set", icon=":material/cloud_upload:"):
        if not own:
            st.caption("There is no row of yours that could be sent: doubtful ones stay here.")
            return
        ids = st.multiselect(
            "Rows", list(own), format_func=lambda i: f"{own[i].label} · {own[i].day}", key="community-send-rows"
        )
        repo = st.text_input(
            "Data set on the Hugging Face hub", "", key="community-repo", placeholder="owner/name", max_chars=200
        )
        if not ids or not repo.strip():
            st.caption("Choose rows and name a data set. Then everything that would be sent is shown here.")
            return
        files = hub.payload([own[i] for i in ids])
        for name, data in files.items():
            st.code(f"{name}\n{data.decode()}", language=None, height=220)
        read = st.checkbox(
            f"I have read it. Send this and nothing else to {text.escape(repo.strip())}; the hub shows my account "
            "beside it.",
            key=f"community-read-{'-'.join(sorted(ids))}-{repo}",
        )
        if st.button("Open a pull request", icon=":material/cloud_upload:", key="community-send", disabled=not read):
            try:
                with st.spinner("Sending"):
                    url = hub.send(repo.strip(), files)
            except ExplorerError as error:
                fault(error)
                return
            st.success("The pull request is open:", icon=":material/check:")
            st.code(url, language=None)


def draw() -> None:
    row_store = RowStore(data_dir())
    with st.container(horizontal=True, vertical_alignment="center"):
        draw_import(row_store)
        own = row_store.rows()[0]
        if own:
            every = Form("My rows (JSON)", "roofscope-rows.json", lambda: b"[" + b",".join(map(encoded, own)) + b"]")
            share_menu([every], "community-share", "A file that others can import. It holds no path and no name.")
    found = board(*row_store.rows(), datetime.date.today())
    names = found.configurations
    if not names and not found.doubtful:
        nothing_yet(
            "No row yet",
            "Import other people's files, or add a row from your own runs below.",
            ":material/groups:",
        )
    if names:
        chosen = select("Configuration", list(names), lambda c: names.get(c, c), "configuration")
        if chosen:
            draw_board(found, chosen)
    draw_apart(found)
    with guard():
        draw_own(row_store)
    with guard():
        draw_send(row_store, found)


with page("Community", ABOUT):
    draw()
