"""A search on the screen: what is asked of it, what it chose and why, and what it measured and left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from core import plugins
from core.paths import data_dir
from core.report.searches import ORDER, audit_words, goal_chart
from core.report.studies import export_study
from core.stats.intervals import Ratio, ends
from core.studies import ledger, search
from core.studies.ledger import FILE
from core.studies.measures import MEASURES
from core.studies.plan import Search, Sweep
from core.studies.search import Found, SearchReport
from core.types import Scalar, to_json
from hardware.errors import ExplorerError
from hardware.files import written_s
from pages.ui import text
from pages.ui.figure import figure
from pages.ui.forms import params_form
from pages.ui.live import reading
from pages.ui.page import fault
from pages.ui.panes import table_height
from pages.ui.share import Form, download, study_menu
from pages.ui.state import store
from pages.ui.studies import busy, draw_busy, start
from pages.ui.sweep_view import show
from pages.ui.table import table

GOALS = ("tok_per_s", "peak_memory_bytes", "latency_s", "ttft_s", "tpot_s", "prefill_tok_per_s")
_LIMITS = (  # measure, label, what one of the widget's unit is, whether it is a floor
    ("latency_s", "Whole answer, at most (s)", 1.0, False),
    ("ttft_s", "First token, at most (s)", 1.0, False),
    ("peak_memory_bytes", "Memory, at most (GB)", 1e9, False),
    ("tok_per_s", "Decode, at least (tok/s)", 1.0, True),
    ("joules", "Energy, at most (J)", 1.0, False),
)
SHARE = 0.15  # of the cells, measured at first
SHOWN = "search-shown"


def draw_ask(plan: Sweep, minutes: float, ready: int, elsewhere: Sequence[str] = ()) -> None:
    """Goals, limits and the number of measurements over the form's grid, and the button. ready: cells that can run.

    elsewhere: what the command says to search on other machines, each by itself.
    """
    goals = st.multiselect(
        "Make better",
        GOALS,
        default=["tok_per_s", "peak_memory_bytes"],
        format_func=lambda m: MEASURES[m].label,
        key="search-goals",
        max_selections=3,
        help="The first one decides among those that meet the limits.",
    )
    limits: dict[str, float] = {}
    columns = st.columns(3)
    for n, (measure, label, unit, _) in enumerate(_LIMITS):
        about = "Only where a counter measures it." if measure == "joules" else "Empty: no limit."
        value = columns[n % 3].number_input(
            label, 0.0, None, None, key=f"search-{measure}", placeholder="none", format="%g", help=about
        )
        if value is not None:
            limits[measure] = float(value) * unit
    usual = min(max(8, round(SHARE * ready)), max(ready, 1))
    total = columns[2].number_input(
        "Measurements",
        1,
        5000,
        usual,
        key=f"search-total-{usual}",
        help="Before the finals.",
    )
    floors = {measure for measure, _, _, floor in _LIMITS if floor}
    asked = _quality()
    try:
        wanted = search.searching(
            plan.base,
            plan.axes,
            goals,
            {m: v for m, v in limits.items() if m not in floors},
            {m: v for m, v in limits.items() if m in floors},
            int(total),
            floor=search.floor_of(*asked) if asked else None,
        )
    except ExplorerError as error:
        fault(error, hindrance=True)
        return
    st.caption(
        f"{'The one cell is' if ready == 1 else f'All {ready} cells are'} predicted"
        f"{' and measured' if total >= ready else f', at most {total} of them measured'}; then up to "
        f"{search.FINALISTS} finalists and the baseline {wanted.final_rounds} times each, in fresh processes."
    )
    if elsewhere:
        st.caption("Each machine searches by itself, which compares them.")
    _draw_button(wanted, minutes, ready, elsewhere)


def _quality() -> tuple[str, float, str, dict[str, Scalar]] | None:
    """The widgets of a floor of quality: eval, limit, metric, settings; None where none is asked for."""
    columns = st.columns(3)
    known = {n: plugins.get("eval", n) for n in plugins.names("eval")}
    name = columns[0].selectbox(
        "Quality, by",
        sorted(known),
        None,
        format_func=lambda n: known[n].label,
        key="search-eval",
        placeholder="not looked at",
        help="Each way to compute is evaluated once, when the first of its cells is measured: this takes time.",
    )
    if name is None:
        return None
    plugin = known[name]
    metrics = {m.name: m for m in plugin.metrics(plugin.Params())}
    metric = columns[1].selectbox(
        "Metric", tuple(metrics), format_func=lambda m: metrics[m].label, key=f"search-metric-{name}"
    )
    found = metrics[metric]
    side = "at most" if found.better == "lower" else "at least"
    limit = columns[2].number_input(
        f"{found.label}, {side}",
        value=None,
        key=f"search-floor-{name}-{metric}",
        format="%g",
        placeholder="none",
        help="Met by the worse end of the 95 % interval, so that few items do not pass for good ones.",
    )
    with st.expander(f"Settings of {text.escape(plugin.label)}"):
        given = params_form(plugin.Params, f"search-e-{name}", columns=2)
    return None if limit is None else (name, float(limit), metric, given)


def _draw_button(wanted: Search, minutes: float, ready: int, elsewhere: Sequence[str]) -> None:
    there = wanted.name in ledger.names(Search)
    if st.button(
        "Go on" if there else "Search",
        icon=":material/search:",
        type="primary",
        key="search-start",
        disabled=busy() or not ready,
    ):
        start(wanted, minutes, SHOWN, *elsewhere)
    draw_busy()


@st.cache_data(max_entries=4, show_spinner=False)
def _report(root: str, name: str, version: float) -> SearchReport:
    """Changes with the ledger."""
    return search.report(ledger.load(data_dir() / "studies" / name, Search), store())


def search_told(name: str) -> tuple[float, str]:
    """How far a search is: its share, and in words. Raises ExplorerError for a study of another kind."""
    over, most = search.progress(ledger.load(data_dir() / "studies" / name, Search))
    return over / most, f"**{over}** of at most {most} runs, the final ones among them"


def report_of(name: str) -> SearchReport:
    """What came of a search so far; raises ExplorerError when there is none."""
    file = data_dir() / "studies" / name / FILE
    with reading("Reading the search's runs"):
        return _report(str(file), name, written_s(file))


def draw_report(found: SearchReport, going: bool = False) -> None:
    """The answer, the plane of the goals, the audit, and every cell. going: it measures now."""
    with st.container(border=True):
        first, *rest = found.answer.words
        st.markdown(f"**{text.escape(first)}**")
        for words in rest:
            st.markdown(text.escape(words))
        if not found.complete and found.answer.cell:
            more = "figures that count come by themselves" if going else "go on with the search for figures that count"
            st.caption(f"The final rounds are not over: {more}.")
    spent = f"{found.measured} measurements in {text.seconds(found.spent_s)}, finals included"
    st.caption(
        f"{spent}; a sweep of every cell was expected to take {text.seconds(found.expected_s)}. {audit_words(found)} "
        f"{text.provenance('measured')} {text.provenance('estimated')}",
        help=text.provenance_help(),
    )
    if (chart := goal_chart(found)) is not None:
        figure(chart, key=f"search-chart-{min(2, len(found.plan.goals))}")
    rows = sorted(found.rows, key=lambda r: ORDER.index(r.stage))
    table(
        [_cells(row, found.plan) for row in rows],
        height=table_height(len(rows), 520),
        alt="Cells of the search: predicted, measured, final, and why not",
    )
    st.caption(
        "Predicted before anything ran; measured in the search; final: anew, in fresh processes. Shrinkage: final over "
        "measured. The best of many noisy figures is too good, so only final figures are results."
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        download(Form("JSON", f"{found.plan.name}.json", lambda: to_json(found)), "search-json")
        study_menu(found.plan.name, "search-share", lambda fmt: export_study(found.plan.name, fmt, store()))


def _cells(row: Found, plan: Search) -> dict[str, Any]:
    names = dict.fromkeys((*plan.goals, *(c.measure for c in plan.constraints)))
    cells: dict[str, Any] = {"Cell": row.label, "Stage": row.stage.capitalize(), "Runs": row.n or None}
    for name in names:
        what, told, final = search.measure_of(plan, name), row.predicted.get(name), row.final.get(name)
        cells[f"{what.label}, predicted"] = (
            f"{show(told.low, what.unit)} to {show(told.high, what.unit)}" if told else text.NONE
        )
        cells[f"{what.label}, measured"] = show(row.measured.get(name), what.unit)
        cells[f"{what.label}, final"] = _with_interval(final, what.unit)
        cells[f"{what.label}, shrinkage"] = text.ratio(row.shrinkage.get(name))
    return {**cells, "Why": row.reason or None}


def _with_interval(value: Ratio | None, unit: str) -> str:
    if value is None:
        return text.NONE
    return show(value.value, unit) + ends(value.low, value.high, lambda end: show(end, unit))
