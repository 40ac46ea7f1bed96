"""Computed against counted FLOPs: by every library that counted this model, per operator and per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from core.analysis.breakdown import Phase
from core.analysis.crosscheck import Row, Total, by_operator, rows, verdict
from core.types import Count, ModelSpec, Result
from pages.ui import text
from pages.ui.layer_detail import loaded_of
from pages.ui.pickers import backend_label
from pages.ui.state import open_run, result_of, store
from pages.ui.table import table

SOURCES = ("dispatch", "ONNX graph", "ggml graph")
ASK = "Run it with the profiler FLOP check to count this model's FLOPs by a library's own operators."
MORE = "Run the same model in another backend with the FLOP check to count it another way."
LOOKED_AT = 40  # newest runs searched for other counts of the same model


def draw_counts(result: Result, phase: Phase) -> None:
    """The FLOP checks of this model in this phase, one tab for each way to count; how to get one where none is."""
    found = counts_of(result, phase)
    with st.container(border=True):
        st.markdown("**Computed and counted FLOPs**")
        if not found:
            st.caption(ASK)
            return
        checked = {source: rows(spec, count) for source, (count, spec, _) in found.items()}
        for source, compared in checked.items():
            run_id = found[source][2]
            whose = "" if run_id == result.run_id else f" Counted in another run of this model: {_which(run_id)}."
            st.markdown(f"- {text.escape(verdict(compared, source))}{whose}")
        table(
            _side_by_side({source: by_operator(r) for source, r in checked.items()}),
            key=f"counts-{phase}",
            alt="Computed against counted FLOPs of each kind of operator",
        )
        if len(found) < len(SOURCES):
            st.caption(MORE)
        with st.expander("Layer by layer"):
            for tab, (source, compared) in zip(st.tabs(list(checked)), checked.items(), strict=True):
                with tab:
                    table(
                        [_row(r) for r in compared],
                        "Computed against counted FLOPs of each layer",
                        key=f"counts-{source}-{phase}",
                    )
                    st.caption(_about(found[source][0]))


def _which(run_id: str) -> str:
    run = open_run(run_id)
    return f"{text.escape(backend_label(run.request.backend))}, {text.when(run.created_s)}"


def counts_of(result: Result, phase: Phase) -> dict[str, tuple[Count, ModelSpec, str]]:
    """Way to count -> the newest count of this run's model, this run's own first, with the id of its run."""
    found: dict[str, tuple[Count, ModelSpec, str]] = {}
    newest = [row["run_id"] for row in store().history() if row.get("model") == result.model][:LOOKED_AT]
    for run_id in [result.run_id, *newest]:
        run = open_run(run_id)
        loaded = loaded_of(run)
        for counted in result_of(run).counts if loaded else ():
            if counted.phase == phase and loaded is not None:
                found.setdefault(counted.count.source, (counted.count, loaded.spec, run_id))
    return {source: found[source] for source in (*SOURCES, *found) if source in found}


def _side_by_side(totals: Mapping[str, Sequence[Total]]) -> list[dict[str, str]]:
    """One row per operator; each way to count gives its difference from the computed figure of its own forward."""
    operators = dict.fromkeys(t.operator for found in totals.values() for t in found)
    table = []
    for operator in operators:
        line = {"Operator": operator}
        for source, found in totals.items():
            t = next((t for t in found if t.operator == operator), None)
            line |= {f"Computed ({source})": text.si(t.executed, "FLOP") if t else text.NONE}
            line |= {f"Counted ({source})": text.si(t.counted, "FLOP") if t else text.NONE}
            line |= {f"Difference ({source})": _difference(t.difference) if t else text.NONE}
        line["Uncounted operators"] = _names(
            sorted({name for found in totals.values() for t in found if t.operator == operator for name in t.uncounted})
        )
        table.append(line)
    return table


def _about(count: Count) -> str:
    sequences = "one sequence" if count.batch == 1 else f"{count.batch} sequences"
    return (
        f"One forward of {count.n_new} after {count.n_past} tokens, {sequences}, 2 FLOPs per multiply-add. "
        f"Computed counts every score of attention, the masked ones too. {count.note} Norms, rotations and "
        "activations are taken in other steps by a library than by the formula, so they need not agree. "
        f"{text.NONE} means uncounted."
    )


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
