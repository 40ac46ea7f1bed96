"""Models, backends and devices in one view: who is best at what, ratios to a baseline, measured beside predicted."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core.analysis.predict import Figure
from core.charts.many_runs import side_by_side
from core.paths import data_dir
from core.report.many_runs import MARKS, bars, report
from core.runs.ceilings import kept
from core.stats.intervals import Ratio, ends
from core.studies import ledger, many_runs, sweep
from core.studies.many_runs import Entry, View
from core.studies.measures import MEASURES
from core.studies.plan import Sweep
from core.types import to_json
from hardware.detect import usable_cores
from pages.ui import text
from pages.ui.choices import select
from pages.ui.figure import figure
from pages.ui.page import nothing_yet, page
from pages.ui.panes import table_height
from pages.ui.share import Form, share_menu
from pages.ui.state import store
from pages.ui.studies import busy, draw_going, start
from pages.ui.sweep_view import show, sweep_told
from pages.ui.table import table

NEWEST = "newest"
_FIRST = ("latency_s", "peak_memory_bytes", "flops", "tok_per_s")
_WIDE = 30  # letters of a label that two charts beside each other have room for


@st.cache_data(max_entries=8, show_spinner="Reading the runs")
def _entries(root: str, ids: tuple[str, ...]) -> tuple[Entry, ...]:
    """Changes with the runs: those that are over do not change."""
    return many_runs.entries([store().open(run_id) for run_id in ids])


@st.cache_data(max_entries=8, show_spinner="Predicting")
def _predicted(
    root: str, ids: tuple[str, ...], ceilings_dates: tuple[str, ...], _found: tuple[Entry, ...]
) -> dict[str, dict[str, Figure]]:
    """Changes with the runs and with the ceilings that are here."""
    return many_runs.predictions(_found, store())


def choose_source() -> tuple[str, str]:
    """Whose runs: a sweep's name, or the newest ones with words that must occur in them."""
    names = [NEWEST, *ledger.names(Sweep)]
    titles = {NEWEST: "The newest runs"} | {n: ledger.title(n) for n in names[1:]}
    left, right = st.columns([2, 1])
    with left:
        chosen = select("Runs", names, lambda n: titles.get(n, n), "runs", NEWEST) or NEWEST
    words = ""
    if chosen == NEWEST:
        words = right.text_input("Only runs with these words", "", key="many-words", placeholder="gpt2 pytorch")
    return chosen, words


def draw_prepared() -> None:
    """One click: the presets of the literature side by side."""
    plan = many_runs.families()
    there = plan.name in ledger.names(Sweep)
    left = sweep.progress(ledger.load(ledger.folder_of(plan), Sweep)).left if there else 1
    with st.popover("Prepared comparison", icon=":material/table_chart:"):
        st.markdown(f"**{plan.title}**")
        st.caption(
            "128 tokens through each in PyTorch, fp32, five times; decoders also generate 16 tokens. Time, memory and "
            "FLOPs are real; presets have random weights, so their text is noise. Takes some minutes."
        )
        label = "Measure them" if not there else "Go on" if left else "Measured already"
        if st.button(label, type="primary", key="many-families", disabled=busy() or not left, width="stretch"):
            start(plan, 60.0)
        if busy():
            st.caption("Something is being measured: stop it or wait for its end.")


def draw_view(found: View) -> None:
    """Charts of three measures, the table, and the downloads."""
    if len(found.lines) < 2:
        st.info(
            "Charts compare two configurations or more: make another run, or choose a sweep above. The table has this "
            "one.",
            icon=":material/table_chart:",
        )
    else:
        draw_measures(found)
    draw_table(found)


def draw_measures(found: View) -> None:
    """A chart for each of the chosen measures."""
    default = [m for m in _FIRST if m in found.measures][:3]
    chosen = st.multiselect(
        "Metrics in charts",
        found.measures,
        default=default,
        format_func=lambda m: MEASURES[m].label,
        key="many-measures",
        max_selections=6,
    )
    wide = max(len(line.label) for line in found.lines) > _WIDE
    with st.grid(1 if wide else 2, min_column_width=320 if wide else 420):
        for measure in chosen:
            with st.container(border=True):
                _draw_measure(found, measure)
    if any(line.predicted for line in found.lines):
        st.caption("Dots: measured, with the 95 % interval of five or more runs. Pale bars: predicted from ceilings.")


def draw_table(found: View) -> None:
    """Every configuration with every measure, and the downloads."""
    rows = [_cells(line.label, line.entry, found, n) for n, line in enumerate(found.lines)]
    table(
        rows,
        height=table_height(len(rows), 700),
        alt="Configurations with every metric, its ratio to the baseline, and what was predicted",
    )
    st.caption(
        "★ the best; ≈ not shown to differ from it (five runs each are needed to tell); ~ disturbed. "
        "In brackets: the ratio to the baseline with its 95 % interval. The runs were not made in pairs. "
        f"{text.provenance('measured')} {text.provenance('computed')} {text.provenance('estimated')}",
        help=text.provenance_help(),
    )
    forms = (
        Form("One page with live charts (HTML)", "many-runs.html", lambda: report(found)),
        Form("JSON", "many-runs.json", lambda: to_json(many_runs.unnamed(found))),
    )
    share_menu(forms, "many-share", "What is shown here; the page opens without a network. No prompt, answer or path.")


def _draw_measure(found: View, measure: str) -> None:
    what = MEASURES[measure]
    st.markdown(f"**{what.label}** · {what.better} is better {text.provenance(what.provenance)}")
    figure(side_by_side(bars(found, measure), what.label, what.unit), key=f"many-{measure}")


def _cells(label: str, entry: Entry, found: View, n: int) -> dict[str, Any]:
    line = found.lines[n]
    cells: dict[str, Any] = {"Configuration": label, "Runs": len(entry.runs)}
    for measure in found.measures:
        what, value = MEASURES[measure], line.values.get(measure)
        words = show(value.value if value else None, what.unit)
        if value is not None:
            words = f"{'~ ' if entry.disturbed and what.provenance == 'measured' else ''}{words}"
            words += MARKS[line.standings.get(measure, "behind")]
            if entry.id != found.baseline and (ratio := line.ratios.get(measure)) is not None:
                words += f" ({_times(ratio)})"
        cells[what.label] = words
        if any(measure in other.predicted for other in found.lines):
            told = line.predicted.get(measure)
            cells[f"{what.label}, predicted"] = (
                text.NONE if told is None else f"{show(told.low, what.unit)} to {show(told.high, what.unit)}"
            )
    return cells


def _threads(found: tuple[Entry, ...]) -> set[int]:
    return {e.request.threads or usable_cores() for e in found}


def _times(ratio: Ratio) -> str:
    return text.ratio(ratio.value) + ends(ratio.low, ratio.high, ".2f")


def draw() -> None:
    draw_going("many", sweep_told)
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        draw_prepared()
    source, words = choose_source()
    runs = many_runs.newest_runs(store(), words) if source == NEWEST else many_runs.runs_of_sweep(store(), source)
    root, ids = str(data_dir()), tuple(run.id for run in runs)
    found = _entries(root, ids)
    if not found:
        nothing_yet(
            "No finished run here",
            "Measure the prepared comparison, make runs on the page Run, or type other words.",
            ":material/table_chart:",
        )
        return
    plain = many_runs.view(found)
    names = {line.entry.id: line.label for line in plain.lines}
    baseline = st.selectbox("Baseline", list(names), format_func=lambda i: names.get(i, i), key="many-baseline")
    dates = tuple(ceilings.date if (ceilings := kept(data_dir(), n)) else "" for n in sorted(_threads(found)))
    shown = many_runs.view(found, baseline, _predicted(root, ids, dates, found))
    if shown.shared:
        st.caption(f"All of them: {text.escape(shown.shared)}")
    for words in many_runs.cautions(shown):
        st.warning(words, icon=":material/info:")
    draw_view(shown)


with page("Many runs", "Models, backends and devices in one view: which is best at what, and by how much?"):
    draw()
