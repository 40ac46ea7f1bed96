"""The table of all runs: searchable, sortable, with rows to select."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import streamlit as st

from core import plugins
from core.plugins import Kind
from core.runs.store import IMPORTED
from hardware.detect import machine_id
from pages.ui import text
from pages.ui.panes import table_height
from pages.ui.pickers import backend_label
from pages.ui.state import rows_key
from pages.ui.table import table


def history_table(rows: list[dict[str, Any]], key: str) -> list[str]:
    """Draw the rows; the ids of the selected ones."""
    shown = cells(rows)
    config = st.column_config
    event: Any = table(
        shown,
        key=rows_key(key, (row["run_id"] for row in rows)),
        on_select="rerun",
        selection_mode="multi-row",
        height=table_height(len(shown), 560),
        alt="All runs kept here, newest first",
        column_config={
            "When": config.DatetimeColumn(format="D MMM HH:mm", width=105),
            "Status": config.TextColumn(width=80),
            "Name": config.TextColumn(width=85, help="Given where the run is shown"),
            "Model": config.TextColumn(width=130),
            "Threads": config.NumberColumn(width=70),
            "Decode (tok/s)": config.NumberColumn(format="%.1f", help="Tokens per second, median of the timing passes"),
            "Disturbed": config.TextColumn(width=80, help="What kept the speeds from being the machine's own"),
            "First token (ms)": config.NumberColumn(format="%.0f", help="Time to first token, without loading"),
            "Memory (MB)": config.NumberColumn(format="%.0f", help="The worker's resident memory at its highest"),
            "Machine": config.TextColumn(width=105, help="Whose numbers these are: a run can be imported"),
            "Note": config.TextColumn(width="medium"),
            "Text": config.TextColumn(width="large"),
        },
    )
    return [rows[i]["run_id"] for i in event.selection.rows]


def cells(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the table shows of each row; a column that nobody has filled in takes no room."""
    labels = cache(_labels)
    shown = [_cells(row, labels) for row in rows]
    unused = {name for name in ("Name", "Note") if all(line[name] is None for line in shown)}
    return [{name: value for name, value in line.items() if name not in unused} for line in shown]


def _cells(row: dict[str, Any], labels: Callable[..., tuple[str | None, str | None]]) -> dict[str, Any]:
    created_s = row.get("created_s")
    ttft_s, peak = row.get("ttft_s"), row.get("peak_memory_bytes")
    backend, what = labels(row.get("backend"), row.get("task"), row.get("did") or row.get("strategy"))
    return {
        "When": None if created_s is None else datetime.fromtimestamp(created_s),
        "Status": text.status_word(str(row["status"])),
        "Name": row.get("name") or None,
        "Model": row.get("model") or row["run_id"],
        "Backend": backend,
        "What": what,
        "Weights": row.get("dtype"),
        "Machine": _machine(row),
        "Decode (tok/s)": row.get("tok_per_s"),
        "Disturbed": row.get("disturbed") or None,
        "First token (ms)": None if ttft_s is None else ttft_s * 1e3,
        "Memory (MB)": None if peak is None else peak / 1e6,
        "Threads": row.get("threads"),
        "Note": row.get("note") or None,
        "Text": row.get("error") or row.get("text"),
    }


def _machine(row: dict[str, Any]) -> str | None:
    """Whose numbers these are."""
    origin = row.get("origin") or ""  # two machines of one kind have one id
    if origin and origin != IMPORTED:
        return str(origin)
    return "This machine" if row.get("machine_id") == machine_id() and not origin else row.get("machine")


def _labels(backend: str | None, task: str | None, did: str | None) -> tuple[str | None, str | None]:
    """The backend, and the strategy of a generation; of other runs the eval or the transform."""
    kinds: dict[str, Kind] = {"evaluate": "eval", "derive": "transform"}
    kind = kinds.get(task or "", "strategy")
    return backend_label(backend) if backend else None, plugins.label(kind, did) if did else None
