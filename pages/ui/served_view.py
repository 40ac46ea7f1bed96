"""What a model server says of an answer and of its memory, beside what was measured here."""

from __future__ import annotations

import streamlit as st

from core.endpoints.client_server import Row, memory_rows, rows
from core.types import Account, Result
from pages.ui import text
from pages.ui.table import table

SERVER = ":violet-badge[:material/dns: as the server says]"
INSIDE = (
    "The model runs behind a server, which gives text and times and nothing of its layers, its arithmetic or this "
    "machine's memory. A run of the same model in a backend of this machine shows them."
)


def draw_served(result: Result) -> None:
    """The two accounts of the last answer that counts; nothing for a model of this machine."""
    account = result.served
    if account is None:
        return
    with st.expander("What the server says", icon=":material/dns:", expanded=True):
        _table(rows(account), "Times and tokens of the last answer, measured here and as the server says", True)
        words = f"{text.provenance('measured')} here, at the client · {SERVER}"
        if not account.streamed:
            words += " · the answer came in one piece, so that no time lies inside it"
        st.caption(words)
        draw_memory(account)


def draw_memory(account: Account) -> None:
    """The server's memory under its own name, or that it tells none."""
    found = memory_rows(account.memory) if account.memory else ()
    if not account.memory or not found:
        st.caption("The server does not tell its memory.")
        return
    st.markdown(f"**Memory of the server** {SERVER}")
    _table(found, "The server's memory, as it says", False)
    bytes_told = any(row.unit == "bytes" for row in found)
    st.caption(
        f"From `{account.memory.source}`, asked behind the answer." + ("" if bytes_told else " It tells no bytes.")
    )


def draw_outside(result: Result) -> None:
    """What stands where a page explains a model from the inside, and this one is behind a server."""
    st.info(INSIDE, title="A server does not show its inside", icon=":material/dns:")
    draw_served(result)


def _table(found: tuple[Row, ...], alt: str, both: bool) -> None:
    table(
        [
            {
                "What": row.what,
                **({"Measured here": _shown(row.ours, row.unit)} if both else {}),
                "The server says": _shown(row.server, row.unit),
                **({"Remark": row.note or None} if both else {}),
            }
            for row in found
        ],
        alt=alt,
        column_config={"What": st.column_config.TextColumn(pinned=True, width=170)},
    )


def _shown(value: float | None, unit: str) -> str | None:
    return None if value is None else text.in_unit(value, unit)
