"""What lies on the disk: by kind, one by one, and what can go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from core import storage
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.choices import select
from pages.ui.page import fault, guard, page
from pages.ui.panes import table_height
from pages.ui.state import remembered, rows_key, runner
from pages.ui.table import table
from pages.ui.tile import tile

ABOUT = "What lies on the disk, how large and how old it is, what it was made from, what uses it, and what can go."
GB = 1e9


def draw_summary(found: Sequence[storage.Item]) -> None:
    now = storage.summary(found)
    with st.grid(4, min_column_width=150, row_height=96):
        tile("On the disk", text.size(now.total_bytes))
        tile(
            "Can be made again",
            text.size(now.again_bytes),
            "Converted files and what killed processes left. It goes without a question.",
        )
        tile("Limit of that", text.size(now.quota_bytes), "Of what can be made again. Set it below.")
        tile("Free on the disk", text.size(now.free_bytes))


def draw_kinds(rows: Sequence[storage.Total]) -> None:
    """A row for every kind."""
    table(
        [
            {
                "Kind": row.kind.label,
                "Size (MB)": row.size_bytes / 1e6,
                "How many": row.n,
                "In use": row.n_busy or None,
                "Made again": "yes" if row.kind.again else "no",
                "What it is": row.kind.about,
            }
            for row in rows
        ],
        alt="What lies on the disk by kind, with its size and whether it can be made again",
        column_config={
            "Kind": st.column_config.TextColumn(pinned=True, width=180),
            "Size (MB)": st.column_config.NumberColumn(format="%.1f", width=80),
            "How many": st.column_config.NumberColumn(width=80),
            "In use": st.column_config.NumberColumn(width=70, help="By a process that is alive; these stay."),
            "Made again": st.column_config.TextColumn(width=100, help="Whether it can be made again when it is needed"),
            "What it is": st.column_config.TextColumn(width="large"),
        },
    )


def choose_kind(rows: Sequence[storage.Total]) -> storage.Kind | None:
    """The kind to look into, at first the one that takes most."""
    kinds: dict[str, storage.Kind] = {row.kind.name: row.kind for row in rows}
    most = max(rows, key=lambda row: row.size_bytes, default=None)
    chosen = select("Look into", list(kinds), lambda name: kinds[name].label, "kind", most.kind.name if most else None)
    return kinds.get(chosen) if chosen else None


def draw_items(kind: storage.Kind, found: Sequence[storage.Item]) -> None:
    """Everything of a kind, with rows to select, and the ways to free it."""
    st.caption(kind.about)
    event: Any = table(
        [
            {
                "Name": item.name,
                "Size (MB)": item.size_bytes / 1e6,
                "Last used": text.age(storage.age_s(item)),
                "Made from": item.made_from or None,
                "Used by": ", ".join(item.used_by) or None,
                "Stays because": item.busy or None,
                "Where": item.path,
            }
            for item in found
        ],
        key=rows_key(f"storage-{kind.name}", (item.path for item in found)),
        on_select="rerun",
        selection_mode="multi-row",
        height=table_height(len(found), 440),
        alt=f"{kind.label} on the disk, the largest first",
        column_config={
            "Name": st.column_config.TextColumn(pinned=True, width=220),
            "Size (MB)": st.column_config.NumberColumn(format="%.1f", width=80),
            "Last used": st.column_config.TextColumn(width=90, help="Since it was used or written last"),
        },
    )
    if kind.name not in storage.FREED:
        return
    chosen = [found[row] for row in event.selection.rows]
    able = [item for item in found if not item.busy]
    with st.container(horizontal=True):
        if st.button(
            f"Free selected ({text.size(storage.summary(chosen).total_bytes)})" if chosen else "Free selected",
            icon=":material/delete:",
            key="free-selected",
            disabled=not chosen,
            help="Select rows.",
        ):
            release(chosen)
        if st.button(
            f"Free all ({text.size(storage.summary(able).total_bytes)})",
            icon=":material/delete_sweep:",
            key="free-all",
            disabled=not able,
            help="What is in use stays.",
            type="tertiary",
        ):
            release(able)


def release(chosen: Sequence[storage.Item]) -> None:
    """Free these, after a question where something cannot be made again."""
    if storage.asks(chosen):
        confirm(chosen)
    else:
        carry_out(chosen)


@st.dialog("Free space", icon=":material/delete:")
def confirm(chosen: Sequence[storage.Item]) -> None:
    with guard():
        n = len(chosen)
        what = "This cannot" if n == 1 else f"These {n} cannot"
        st.markdown(f"{what} be made again: {text.size(storage.summary(chosen).total_bytes)}. Free for good?")
        lines = [" · used by ".join(filter(None, (item.name, ", ".join(item.used_by)))) for item in chosen[:8]]
        st.caption("  \n".join(map(text.escape, lines)) + ("  \n…" if n > 8 else ""))
        with st.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Keep", key="storage-no"):
                st.rerun()
            if st.button("Free", type="primary", icon=":material/delete:", key="storage-yes"):
                carry_out(chosen)


def carry_out(chosen: Sequence[storage.Item]) -> None:
    """Free these; a worker of this app that only waits gives back the files that it has open."""
    if runner().active() is None:
        runner().close()
    said().append(storage.free(chosen, yes=True))
    st.rerun()


def said() -> list[storage.Freed]:
    """What was freed since the page was drawn last."""
    return remembered("storage-freed", list)


def tell() -> None:
    """What went, and why the rest did not."""
    for done in said():
        st.success(f"{done.n} removed, {text.size(done.size_bytes)}.", icon=":material/check:")
        for sentence in done.kept[:8]:
            st.caption(f":material/info: {text.escape(sentence)}")
    said().clear()


def draw_limit() -> None:
    with st.form("storage-limit", border=True):
        st.markdown("**Limit of what can be made again**")
        st.caption(
            "Before a file is converted, those used longest ago give way to it, as far as this limit and the free disk "
            "ask for it. What a process has open stays, and so does everything that cannot be made again."
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            most = st.number_input(
                "Limit (GB)", 0.0, 1e6, storage.quota_bytes() / GB, step=1.0, key="storage-quota", width=180
            )
            if st.form_submit_button("Keep this limit", icon=":material/save:"):
                if runner().active() is None:
                    runner().close()
                try:
                    said().append(storage.limit(int(most * GB)))
                except ExplorerError as error:
                    fault(error)
                    return
                st.rerun()


with page("Storage", ABOUT):
    tell()
    everything = storage.items()
    draw_summary(everything)
    there = [row for row in storage.totals(everything) if row.n]
    draw_kinds(there)
    picked = choose_kind(there)
    if picked is not None:
        draw_items(picked, [item for item in everything if item.kind == picked.name])
    draw_limit()
