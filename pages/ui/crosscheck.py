"""Computed against counted FLOPs of a run: the verdict, the kinds of operators, and every layer."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core.analysis.breakdown import Phase
from core.analysis.crosscheck import Row, Total, by_operator, rows, verdict
from core.types import ModelSpec, Result
from pages.ui import text

ASK = "Run it again with the profiler FLOP check to count this model's FLOPs by its library's own operators."


def draw_counts(result: Result, spec: ModelSpec, phase: Phase) -> None:
    """The FLOP check of this phase; what to do where the run has none."""
    count = next((c.count for c in reversed(result.counts) if c.phase == phase), None)
    with st.container(border=True):
        st.markdown("**Computed and counted FLOPs**")
        if count is None:
            st.caption(ASK)
            return
        found = rows(spec, count)
        st.markdown(text.escape(verdict(found, count.source)))
        st.dataframe([_total(t) for t in by_operator(found)], hide_index=True, key=f"counts-{phase}")
        with st.expander("Layer by layer"):
            st.dataframe([_row(r) for r in found], hide_index=True, key=f"counts-layers-{phase}")
        sequences = "one sequence" if count.batch == 1 else f"{count.batch} sequences"
        st.caption(
            f"One forward of {count.n_new} after {count.n_past} tokens, {sequences}, 2 FLOPs per multiply-add. "
            f"Computed counts every score of attention, the masked ones too. {count.note} Norms, rotations and "
            "activations are taken in other steps by a library than by the formula, so they need not agree. "
            f"{text.NONE} means uncounted."
        )


def _total(row: Total) -> dict[str, str | int]:
    return {
        "Operator": row.operator,
        "Layers": row.n_layers,
        "Counted layers": row.n_counted,
        "Computed": text.si(row.executed, "FLOP"),
        "Counted": text.si(row.counted, "FLOP"),
        "Difference": _difference(row.difference),
        "Uncounted operators": _names(row.uncounted),
    }


def _row(row: Row) -> dict[str, str]:
    return {
        "Layer": row.name,
        "Operator": row.operator,
        "Computed": text.si(row.executed, "FLOP"),
        "Useful": text.si(row.computed, "FLOP"),
        "Counted": text.si(row.counted, "FLOP"),
        "Difference": _difference(row.difference),
        "Library's operators": _names(row.ops),
        "Uncounted operators": _names(row.uncounted),
    }


def _difference(value: float | None) -> str:
    return text.NONE if value is None else "0 %" if abs(value) < 1e-9 else f"{100 * value:+.2f} %"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or text.NONE
