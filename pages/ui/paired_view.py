"""Two evaluations over the same items: the difference, whether it is real, and which items changed."""

from __future__ import annotations

import streamlit as st

from core.runs.store import Run
from core.stats.paired import ALPHA, Comparison, compare, holm, noninferiority
from core.types import Evaluate, Item, Result
from pages.ui import text
from pages.ui.pickers import run_line
from pages.ui.state import open_run, readable, result_of, store

_SHOWN_RUNS = 200
_SHOWN_FLIPS = 50


def draw_paired(run: Run, result: Result) -> None:
    """Choose the baseline among the runs of the same eval, and compare item by item."""
    st.subheader("Against another run", anchor=False)
    others = same_eval(run)
    if not others:
        st.caption(
            "Evaluate another model, backend or precision with the same settings: both are then compared over the "
            "same items."
        )
        return
    names = {other.id: run_line(other) for other in others}
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        chosen = st.selectbox("Baseline", list(names), format_func=names.__getitem__, key=f"baseline-{run.id}")
    with right:
        margin = st.number_input(
            "Margin, points",
            0.1,
            50.0,
            1.0,
            key="margin",
            help="How much worse a rate may be and still count as no worse. State it before you look.",
        )
    baseline = result_of(open_run(chosen))
    assert result.asked is not None
    if not {i.id for i in baseline.items} & {i.id for i in result.items}:
        st.caption("The two runs have no item in common.")
        return
    found = [compare(metric, baseline.items, result.items) for metric in result.asked.metrics if metric.kind != "p99"]
    draw_comparisons(found, margin / 100)
    draw_flips(found, baseline, result)


def same_eval(run: Run) -> list[Run]:
    """Ended evaluations with the same eval, newest first; those with equal settings share all items."""
    task = run.request.task
    assert isinstance(task, Evaluate)
    found = []
    for run_id in store().ids()[:_SHOWN_RUNS]:
        if run_id == run.id or not readable(run_id):
            continue
        other = store().open(run_id)
        there = other.request.task
        if isinstance(there, Evaluate) and there.eval == task.eval and result_of(open_run(run_id)).items:
            found.append(open_run(run_id))
    return found


def draw_comparisons(found: list[Comparison], margin: float) -> None:
    """A line per metric: both values, the difference with its interval, p after Holm, and the verdict."""
    adjusted = holm([c.p for c in found])
    rows = []
    for comparison, p in zip(found, adjusted, strict=True):
        d = comparison.difference
        rows.append(
            {
                "Metric": comparison.metric.label,
                "Baseline": comparison.baseline,
                "This run": comparison.variant,
                "Difference": d.value,
                "95 % interval": text.NONE if d.low is None else f"{d.low:+.4g} to {d.high:+.4g}",
                "p (Holm)": p,
                "Verdict": _verdict(comparison, p, margin),
                "Items": comparison.n,
            }
        )
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        column_config={
            name: st.column_config.NumberColumn(format="%.4g")
            for name in ("Baseline", "This run", "Difference", "p (Holm)")
        },
    )
    missing = found[0].missing
    if missing:
        st.caption(f"{len(missing)} items are in one of the runs only and were left out.")


def _verdict(comparison: Comparison, p: float, margin: float) -> str:
    """Better, worse, no worse than the margin, or undecided."""
    if p <= ALPHA:
        return "better" if comparison.gain > 0 else "worse"
    if comparison.metric.kind == "rate":
        return noninferiority(comparison, margin).verdict
    return "no difference shown"


def draw_flips(found: list[Comparison], baseline: Result, result: Result) -> None:
    """Items that only one of the two has right: what a mean hides."""
    flips = next((c for c in found if c.lost or c.gained), None)
    if flips is None:
        return
    before, after = ({i.id: i for i in r.items} for r in (baseline, result))
    label = f"Flips: {len(flips.lost)} lost, {len(flips.gained)} gained"
    with st.expander(label, icon=":material/swap_vert:"):
        rows = [_flip(name, "lost", before, after) for name in flips.lost]
        rows += [_flip(name, "gained", before, after) for name in flips.gained]
        st.dataframe(rows[:_SHOWN_FLIPS], hide_index=True, width="stretch", alt="Items that flipped")


def _flip(name: str, way: str, before: dict[str, Item], after: dict[str, Item]) -> dict[str, str]:
    return {
        "Item": name,
        "Flip": way,
        "Baseline": before[name].output,
        "This run": after[name].output,
        "Expected": after[name].expected,
    }
