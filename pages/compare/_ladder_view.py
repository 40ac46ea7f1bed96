"""A compression study on the screen: front, table with marks, differences, composite metrics and their evidence."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import streamlit as st

from core.report import ladder as report
from core.studies.composites import CANDIDATES
from core.studies.findings import Findings, Row
from pages.ui import text
from pages.ui.figure import figure
from pages.ui.links import link
from pages.ui.panes import table_height
from pages.ui.pickers import backend_label
from pages.ui.state import readable, set_widgets
from pages.ui.table import table

_PASSED = {
    True: (":material/check:", "passed"),
    False: (":material/close:", "failed"),
    None: (":material/question_mark:", "not tested"),
}
_PICKED = "ladder-variant"  # the widget that holds the variant that is looked at


def draw_ladder(found: Findings) -> None:
    """Everything of one study."""
    where, how = text.escape(report.where(found)), text.escape(report.how(found))
    st.caption(f"{where} {text.provenance('measured')}", help=how)
    by_id = {row.id: row for row in found.rows}

    def clicked() -> None:
        set_widgets({_PICKED: _selected(st.session_state["front"], by_id)})

    figure(report.front_chart(found, pick=True), key="front", on_select=clicked, selection_mode="pick")
    st.caption("The dashed line is the Pareto front.")
    chosen = st.selectbox(
        "See what is behind a variant",
        list(by_id),
        None,
        format_func=lambda i: f"{by_id[i].label} · {backend_label(by_id[i].backend)}",
        key=_PICKED,
        placeholder="click it, or choose its name",
        width=360,
    )
    if chosen in by_id:
        draw_row(by_id[chosen])
    st.header("Variants", anchor=False)
    rows = [_line(found, r) for r in found.rows]
    table(
        rows,
        height=table_height(len(rows)),
        alt="Variants of the study",
        column_config={"Quality": st.column_config.TextColumn(width=185)},  # the browser takes a mark to be narrower
    )
    st.caption(
        "▼ and ▲: shown to be worse or better than the baseline (p ≤ 0.05 after Holm's correction over the variants). "
        f"{text.escape(report.energy_words(found.rows))}"
    )
    st.header("Differences from the baseline", anchor=False)
    figure(report.delta_chart(found), key="deltas")
    st.caption(text.escape(report.margin(found)))
    draw_composites(found)


def _selected(state: Any, known: Collection[str]) -> str | None:
    """The variant that was clicked in the drawn chart."""
    return next((x["id"] for x in state.selection.get("pick", ()) if x.get("id") in known), None)


def draw_row(row: Row) -> None:
    """One variant: its note, its warnings, and the runs behind its figures."""
    with st.container(border=True):
        st.markdown(f"**{text.escape(row.label)}** · {text.escape(backend_label(row.backend))}")
        for words in (row.note, row.reason, *row.warnings, row.equal.sentence if row.equal else ""):
            if words:
                st.caption(text.escape(words))
        here = [run_id for run_id in row.runs if readable(run_id)]
        with st.container(horizontal=True):
            for number, run_id in enumerate(here[:8], 1):
                link("pages/measure/run.py", f"Run {number}", ":material/open_in_new:", run_id)
        if row.runs and not here:
            st.caption("Its runs are not on this machine.")


def _line(found: Findings, row: Row) -> dict[str, str]:
    cells = report.line(found, row).cells
    header = report.header(found)
    return {name: f"{c.text} {c.range}".strip() for name, c in zip(header, cells, strict=True)}


def draw_composites(found: Findings) -> None:
    """Metrics that passed their validation, with values; those that failed, with the reason."""
    st.header("Composite metrics, validated", anchor=False)
    by_name = {c.name: c for c in CANDIDATES}
    for verdict in found.verdicts:
        composite = by_name.get(verdict.composite)
        if composite is None:
            continue
        mark = ":green-badge[:material/check: kept]" if verdict.kept else ":red-badge[:material/close: dropped]"
        if not verdict.checks:
            mark = ":gray-badge[not testable here]"
        with st.expander(f"{composite.label} {mark}"):
            st.markdown(f"`{composite.formula}`")
            st.caption(text.escape(verdict.reason))
            for check in verdict.checks:
                icon, word = _PASSED[check.passed]
                st.markdown(f"{icon} **{text.escape(check.name)}**, {word} · {text.escape(check.sentence)}")
            if verdict.kept:
                values = [
                    (r.label, next((v for v in r.composites if v.composite == composite.name), None))
                    for r in found.rows
                ]
                table(
                    [
                        {
                            "Variant": label,
                            "Value": v.value,
                            "95 % interval": f"{v.low:.3g} to {v.high:.3g}"
                            if v.low is not None and v.high is not None
                            else v.reason or text.NONE,
                        }
                        for label, v in values
                        if v is not None
                    ],
                    f"{composite.label} of each variant, with its interval",
                )
