"""A sweep on the screen: how far it is, and its cells as a heat map, small multiples and a table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from core.charts.sweep import drift, heat, multiples
from core.paths import data_dir
from core.report.studies import export_study
from core.report.sweeps import measured, tiles, varied
from core.report.tables import as_csv
from core.stats.intervals import ends
from core.studies import ledger, sweep
from core.studies.grid import axis_words, value_words
from core.studies.ledger import FILE
from core.studies.measures import MEASURES
from core.studies.plan import Sweep
from core.studies.sweep import Progress, Report
from core.types import to_json
from hardware.files import written_s
from pages.ui import text
from pages.ui.figure import figure
from pages.ui.links import link
from pages.ui.live import reading
from pages.ui.panes import table_height
from pages.ui.share import Form, download, study_menu
from pages.ui.state import store
from pages.ui.studies import eta_words
from pages.ui.table import table

_SHOWN = 12  # values of an axis in a chart before it is unreadable


def progress_words(told: Progress) -> str:
    """`12 done · 1 failed · 8 cannot run · 3 left · about 4 min 10 s (3 min to 6 min)`."""
    words = [
        f"**{told.done}** done",
        f"**{told.failed}** failed",
        f"{told.refused} cannot run",
        f"**{told.left}** left",
    ]
    return " · ".join((*words, *eta_words(told.eta)))


def sweep_told(name: str) -> tuple[float, str]:
    """How far a sweep is: its share, and in words. Raises ExplorerError for a study of another kind."""
    told = sweep.progress(ledger.load(data_dir() / "studies" / name, Sweep))
    return told.share, progress_words(told)


@st.cache_data(max_entries=4, show_spinner=False)
def _report(root: str, name: str, version: float) -> Report:
    """Changes with the ledger."""
    return sweep.report(ledger.load(data_dir() / "studies" / name, Sweep), store())


def report_of(name: str) -> Report:
    """Everything that came of a sweep; raises ExplorerError when there is none."""
    folder = data_dir() / "studies" / name
    with reading("Reading the sweep's runs"):
        return _report(str(folder), name, written_s(folder / FILE))


def draw_report(found: Report, key: str) -> None:
    """Everything of one sweep."""
    st.markdown(f"{progress_words(found.progress)} {text.provenance('measured')}", help=text.provenance_help())
    if words := disturbed_words(found):
        st.warning(words, icon=":material/sensors:")
    if measures := measured(found):
        draw_charts(found, measures, key)
    draw_table(found, key)
    if words := sweep.drift_words(found.drift):
        st.markdown("**Drift**")
        st.caption(f"{text.escape(found.reference)}. {words}")
        figure(drift([(s.created_s, s.ratio, s.disturbed) for s in found.drift]), key=f"{key}-drift")


def disturbed_words(found: Report) -> str:
    """How many of the measured cells were disturbed; nothing where none was."""
    timed = [row for row in found.rows if row.values]
    n = sum(row.disturbed for row in timed)
    if not n:
        return ""
    were = "was" if n == 1 else "were"
    return f"{n:,} of {text.counted(len(timed), 'measured cell')} {were} disturbed by other programs (~)."


def draw_charts(found: Report, measures: Sequence[str], key: str) -> None:
    """The heat map over two axes and the small multiples over three."""
    axes = varied(found)
    if not axes:
        return
    one, two, three, four = st.columns(4)
    measure = one.selectbox("Metric", measures, format_func=lambda m: MEASURES[m].label, key=f"{key}-measure")
    x = two.selectbox("Across", axes, index=len(axes) - 1, format_func=_words, key=f"{key}-x")
    others = [name for name in axes if name != x]
    y = three.selectbox("Down, or lines", ["", *others], min(1, len(others)), format_func=_words, key=f"{key}-y")
    rest = [name for name in others if name != y]
    panel = four.selectbox("Panels", ["", *rest], format_func=_words, key=f"{key}-panel")
    what = MEASURES[measure]
    flat = tiles(found, measure, x, y)
    if max(len({t.x for t in flat}), len({t.y for t in flat})) > 4 * _SHOWN:
        st.caption("Too many values for a chart; the table has them all.")
        return
    map_tab, lines_tab = st.tabs(["Heat map", "Small multiples"])
    with map_tab:
        figure(heat(flat, _words(x), _words(y) if y else "", what.label, what.unit, what.better), key=f"{key}-heat")
    with lines_tab:
        parts = tiles(found, measure, x, y, panel)
        chart = multiples(
            parts, _words(x), _words(y) if y else "", _words(panel) if panel else "", what.label, what.unit
        )
        figure(chart, key=f"{key}-multiples")
    hidden = [name for name in axes if name not in (x, y)]
    if hidden:
        st.caption(
            f"Each place shows the best over {', '.join(map(_words, hidden))} ({what.better} is better); the panels "
            "take one of them apart. A dash: not measured."
        )


def draw_table(found: Report, key: str) -> None:
    """One row per cell; what cannot run and what failed with the reason, and the downloads."""
    rows = sweep.flat(found)
    shown = [_cells(row, found) for row in rows]
    table(
        shown,
        key=f"{key}-table",
        height=table_height(len(shown), 520),
        alt="Cells of the sweep with what was measured, or why not",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        download(Form("CSV", f"{found.plan.name}.csv", lambda: as_csv(rows)), f"{key}-csv")
        download(Form("JSON", f"{found.plan.name}.json", lambda: to_json(found)), f"{key}-json")
        study_menu(found.plan.name, f"{key}-share", lambda fmt: export_study(found.plan.name, fmt, store()))
        link("pages/compare/many.py", "Compare these runs", ":material/table_chart:", query={"runs": found.plan.name})


def _cells(row: dict[str, Any], found: Report) -> dict[str, Any]:
    """A row as people read it: units, and the interval behind the value."""
    axes = {_words(a.name): value_words(a.name, row[a.name]) for a in found.plan.axes}
    values: dict[str, Any] = {}
    for name, what in MEASURES.items():
        if name not in row:
            continue
        between = ends(row.get(f"{name}_low"), row.get(f"{name}_high"), partial(show, unit=what.unit))
        about = row["disturbed"] and row[name] is not None and what.provenance == "measured"
        values[what.label] = f"{'~ ' if about else ''}{show(row[name], what.unit)}{between}"
    where = {"Machine": row["machine"] or None} if "machine" in row else {}
    return {**axes, **where, "Status": text.status_word(row["status"]), **values, "Why": row["reason"] or None}


def show(value: float | None, unit: str) -> str:
    """A figure of a measure."""
    if value is None:
        return text.NONE
    if unit == "tok/s":
        return text.token_rate(value)
    return text.seconds(value) if unit == "s" else text.si(value, unit)


def _words(axis: str) -> str:
    return axis_words(axis) if axis else "None"
