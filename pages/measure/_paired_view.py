"""Two evaluations over the same items: the difference, whether it is real, and which items changed."""

from __future__ import annotations

import streamlit as st

from core.runs.evaluations import Compared, compare_evaluations
from core.runs.store import Run
from core.stats.paired import Comparison
from core.types import Evaluate, Item, Result
from pages.ui import text
from pages.ui.pickers import run_lines
from pages.ui.state import open_run, readable, result_of, store
from pages.ui.table import table

_SHOWN_RUNS = 200
_SHOWN_FLIPS = 50
_SHOWN_ITEMS = 200
_TALL, _WIDE = 56, 34  # pixels of a row with a verdict of two lines, and letters of one


def draw_paired(run: Run, result: Result) -> None:
    """Choose the baseline among the runs of the same eval, and compare item by item."""
    st.header("Against another run", anchor=False)
    others = same_eval(run)
    if not others:
        st.caption(
            "Evaluate another model, backend or precision with the same settings: both are then compared over the "
            "same items."
        )
        return
    names = run_lines(others)
    chosen = st.selectbox("Baseline", list(names), format_func=names.__getitem__, key=f"baseline-{run.id}")
    other = open_run(chosen)
    baseline = result_of(other)
    found = compare_evaluations(other.request, baseline, run.request, result)
    if found.reason:
        st.info(text.escape(found.reason), icon=":material/block:")
    if found.lines:
        draw_comparisons(found)
    for words in found.left_out:
        st.caption(text.escape(words))
    draw_flips([line.comparison for line in found.lines], baseline, result)
    draw_beside(baseline, result)


def same_eval(run: Run) -> list[Run]:
    """Ended evaluations with the same eval, newest first, whatever their settings."""
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


def draw_comparisons(found: Compared) -> None:
    """A line per metric: both values, the difference with its interval, p after Holm, and the verdict."""
    rows = []
    for line in found.lines:
        comparison, d = line.comparison, line.comparison.difference
        rows.append(
            {
                "Metric": comparison.metric.label,
                "Verdict": line.verdict,
                "Baseline": comparison.baseline,
                "This run": comparison.variant,
                "Difference": d.value,
                "95 % interval": text.NONE if d.low is None else f"{d.low:+.4g} to {d.high:+.4g}",
                "p (Holm)": line.p,
                "Items compared": comparison.n,
            }
        )
    table(
        rows,
        row_height=_TALL if any(len(str(row["Verdict"])) > _WIDE for row in rows) else None,
        alt="Every metric of both runs, their difference with its interval, and the verdict",
        column_config={
            "Verdict": st.column_config.TextColumn(width=230),
            "p (Holm)": st.column_config.NumberColumn(
                format="%.4g", help="Exact or by bootstrap, as the metric asks; corrected over the metrics by Holm"
            ),
            **{n: st.column_config.NumberColumn(format="%.4g") for n in ("Baseline", "This run", "Difference")},
        },
    )
    if any(line.comparison.metric.kind == "rate" for line in found.lines):
        st.caption(
            "No margin was stated before this run, so that nothing is called non-inferior."
            if found.margin is None
            else f"A rate counts as no worse within {100 * found.margin:g} points: the margin stated before this run."
        )


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
        table(rows[:_SHOWN_FLIPS], alt="Items that flipped")


def draw_beside(baseline: Result, result: Result) -> None:
    """Both runs' answers to the same items, those that differ first."""
    before = {i.id: i for i in baseline.items}
    both = sorted((i for i in result.items if i.id in before), key=lambda i: i.output == before[i.id].output)
    if not any(i.output or before[i.id].output for i in both):
        return
    n = sum(i.output != before[i.id].output for i in both)
    with st.expander(f"Both answers, item by item: {n} of {len(both)} differ", icon=":material/compare_arrows:"):
        rows = [
            {
                "Item": i.id,
                "Baseline": before[i.id].output,
                "This run": i.output,
                "Expected": i.expected,
                "Prompt": i.prompt[-300:],
            }
            for i in both[:_SHOWN_ITEMS]
        ]
        table(rows, height=300, alt="The answers of both runs to each item")
        if len(both) > _SHOWN_ITEMS:
            st.caption(f"The first {_SHOWN_ITEMS} are shown; the exports have all.")


def _flip(name: str, way: str, before: dict[str, Item], after: dict[str, Item]) -> dict[str, str]:
    return {
        "Item": name,
        "Flip": way,
        "Baseline": before[name].output,
        "This run": after[name].output,
        "Expected": after[name].expected,
    }
