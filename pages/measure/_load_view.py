"""A load test on the screen: where it stands, latency and goodput over the load, each level closely, and its files."""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

from core.charts.labels import plain
from core.charts.load import Quantile, Rate, goodput_over_load, latency_over_load, request_timeline
from core.loadtest import views
from core.loadtest.level import FEWEST, SHARES
from core.loadtest.load_store import LoadStore, LoadTest
from core.loadtest.plan import named
from core.loadtest.report import ExportKind, Measured, Report, export, levels, offered
from core.loadtest.views import METRICS, SHORT, Latency, Metric, dots, latencies, standing
from core.paths import data_dir
from core.stats.intervals import ends
from core.types import GOING
from pages.ui import text
from pages.ui.figure import figure
from pages.ui.live import moving
from pages.ui.share import Form, download
from pages.ui.state import report_of
from pages.ui.table import table

_LIMITS: dict[Metric, str] = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2el"}
_FILES: dict[ExportKind, tuple[str, str]] = {
    "csv": ("Levels as CSV", ".csv"),
    "requests": ("Requests as CSV", "-requests.csv"),
    "json": ("All as JSON", ".json"),
}


def draw_load(test: LoadTest) -> None:
    """One test: while it goes on a strip that moves, and the levels that are over."""
    about = test.about
    plan = about.plan
    going = test.status() in GOING
    server = text.escape(plan.address.split("://")[-1])
    loop = "closed loop" if plan.mode == "closed" else "open loop: latencies from the scheduled time"
    st.markdown(
        f"{text.status(test.status())} **{server}** {text.escape(plan.model)} · {loop} · "
        f"{text.escape(str(plan.prompt))} + {text.escape(str(plan.answer))} tokens · {text.when(about.created_s)} "
        f"{text.provenance('measured')}"
    )
    if going:
        _draw_going(test)
    found = report_of(test)
    if found.error:
        st.error(text.prose(found.hint or found.error), title=text.prose(found.error), icon=":material/error:")
    elif found.status == "interrupted":
        st.warning(
            "Its process ended without a word; what was measured until then is below.", icon=":material/power_off:"
        )
    for words in found.told:
        st.caption(text.escape(words))
    if found.found is not None:
        st.info(text.prose(found.found.sentence), icon=":material/flag:")
    if found.points:
        _draw_points(found)
        _draw_level(test, found)
    elif not going and not found.error:
        st.caption("No level was measured long enough to say something.")
    if not going:
        _draw_files(test, found)


def _draw_going(test: LoadTest) -> None:
    seen = len(report_of(test).points)

    def strip() -> bool:
        if test.status() not in GOING or len(report_of(test).points) != seen:
            st.rerun()
        spent_s = max(0.0, time.time() - test.about.created_s)
        now = standing(test.about.plan, test.events(), spent_s)
        doing = f"{now.words}, stopping" if test.cancel_requested else now.words
        st.progress(now.share or 0.0, text=f"{text.escape(doing)} · {text.clock(spent_s)}")
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            failed = f" · {now.failed} failed" if now.failed else ""
            st.markdown(
                f"{now.n} requests{failed} · lately {text.si(now.per_s, 'req/s')} · "
                f"median {text.seconds(now.e2e_s)} each",
                width="content",
            )
            st.button(
                "Stop",
                icon=":material/stop_circle:",
                key="load-stop",
                on_click=test.cancel,
                disabled=test.cancel_requested,
                help="Drops the connections; what was measured is kept.",
            )
        of = levels(test.events(), test.about.plan.mode)
        if of and of[-1].outcomes:
            chart = request_timeline(dots(of[-1], test.about.plan.objectives), of[-1].open_s, of[-1].close_s)
            figure(chart, key="load-live")
        return True

    moving(f"load-{test.id}", strip, "curves")


def _draw_points(found: Report) -> None:
    """Latency and rates over the load, and the table below."""
    with st.container(border=True):
        names: list[Metric] = [m for m in METRICS if any(getattr(p.point, m).n for p in found.points)] or ["e2e"]
        metric = st.segmented_control(
            "Latency",
            names,
            default=names[0],
            format_func=SHORT.__getitem__,
            help="  \n".join(f"**{SHORT[name]}**: {words}" for name, words in METRICS.items()),
            key="load-metric",
            required=True,
        )
        limit_ms = found.plan.objectives.stated.get(_LIMITS.get(metric, ""))
        limit_s = None if limit_ms is None else limit_ms / 1e3
        with st.grid(2, min_column_width=260):
            figure(
                latency_over_load(_quantiles(found, metric), METRICS[metric], found.plan.unit, limit_s),
                key=f"load-latency-{metric}",
            )
            figure(goodput_over_load(_rates(found), found.plan.unit), key="load-goodput")
        st.caption(
            "Hollow triangles: something is off there, and the notes below say what. Quantiles and intervals by order "
            "statistics at 95 %; none where there are too few requests."
        )
    table(
        [{k: _cell(v) for k, v in row.items()} for row in views.table(found)],
        alt="Throughput, goodput and latency at each load",
    )
    if found.plan.objectives.stated:
        st.caption(
            f"Good: {text.escape(str(found.plan.objectives))} (ms). Failures count as bad; what lacks a number that an "
            "objective asks for is unknown, and neither."
        )
    for m in found.points:
        for flag in m.flags:
            where = named(m.point.load, found.plan.unit)
            st.caption(f":orange[:material/warning:] **{where}** · {text.escape(flag.words)}")


def _draw_level(test: LoadTest, found: Report) -> None:
    """One load closely: all its latencies with intervals, why requests failed, and each request over time."""
    by_load = {f"{m.point.load:g}": m for m in found.points}
    names = list(by_load)
    best = f"{found.best:g}" if found.best is not None else names[0]
    chosen = st.segmented_control(
        f"One load closely ({found.plan.unit})",
        names,
        default=best if best in names else names[0],
        key=f"load-level-{test.id}",
        required=True,
    )
    m = by_load.get(chosen or "", found.points[0])
    p = m.point
    with st.container(border=True):
        attained = ""
        if p.attainment is not None:
            between = ends(p.attainment.low, p.attainment.high, text.percent)
            attained = f" · **{text.percent(p.attainment.value)}**{between} good"
        st.markdown(
            f"**{p.counted}** requests in {text.seconds(p.window_s)}{attained} · "
            f"{text.si(p.in_flight)} under way on average · prompts of {text.count(p.prompt_tokens)} tokens, "
            f"answers of {text.count(p.answer_tokens)} (medians)"
        )
        table(
            [_latency_row(x) for x in latencies(m)],
            alt="Latencies at this load, with their intervals",
        )
        need = ", ".join(f"{name} {n}" for name, n in FEWEST.items())
        st.caption(
            f"Intervals at 95 %. A quantile needs so many requests: {need}. Gaps have no interval: those of one "
            "request are not independent of each other."
        )
        for kind, n in p.failures.items():
            st.markdown(f":red[:material/close:] {n} × {text.escape(kind)}")
        for reason in p.reasons:
            st.caption(text.escape(reason))
        _draw_timeline(test, found, m)
        _draw_checks(m)


def _draw_timeline(test: LoadTest, found: Report, m: Measured) -> None:
    of = [level for level in levels(test.events(), found.plan.mode) if level.load == m.point.load]
    if not of:
        return
    level = of[-1]
    figure(request_timeline(dots(level, found.plan.objectives), level.open_s, level.close_s), key="load-timeline")
    st.caption("Shaded: the window that counts." + (" The last repeat is shown." if len(of) > 1 else ""))


def _draw_checks(m: Measured) -> None:
    """The numbers behind the notes, also where nothing is off."""
    drift = text.NONE
    if m.drift is not None:
        change, low, high = m.drift
        drift = f"{change:+.0%} [{low:+.0%}, {high:+.0%}]"
    parts = [f"TTFT over the window {drift}", f"Little's law {text.percent(m.little)}"]
    if m.delay_s is not None:
        parts.append(f"median delay {text.seconds(m.delay_s)}, {text.percent(m.sent)} of what was due was sent")
    parts.append(f"this client used {text.percent(m.cpu)} of a core")
    st.caption("Checks: " + text.escape(" · ".join(parts)))


def _draw_files(test: LoadTest, found: Report) -> None:
    with st.container(horizontal=True):
        for kind in offered(found, test.events()):
            label, ending = _FILES[kind]
            form = Form(label, f"{test.id}{ending}", lambda kind=kind: export(found, test.events(), kind))  # type: ignore[misc]
            download(form, f"load-file-{kind}")
        with st.popover("Delete", icon=":material/delete:", type="tertiary"):
            st.markdown("Its requests and figures are gone then.")
            st.button("Delete this load test", key="load-delete", on_click=_delete, args=(test.id,), type="primary")


def _delete(test_id: str) -> None:
    LoadStore(data_dir()).delete(test_id)
    st.toast("The load test is deleted.", icon=":material/delete:")


def _quantiles(found: Report, metric: Metric) -> list[Quantile]:
    shown = []
    for m in found.points:
        spread = getattr(m.point, metric)
        for share in SHARES:
            q = getattr(spread, share)
            if q.value is not None:
                shown.append(Quantile(m.point.load, share, q.value, q.low, q.high, q.n, _off(m)))
    return shown


def _rates(found: Report) -> list[Rate]:
    shown = []
    for m in found.points:
        p = m.point
        known = {"asked for": p.load if p.mode == "open" else None, "completed": p.requests_per_s, "good": p.goodput}
        shown += [Rate(p.load, what, value, _off(m)) for what, value in known.items() if value is not None]
    return shown


def _off(m: Measured) -> str:
    return ", ".join(dict.fromkeys(flag.name for flag in m.flags))


def _latency_row(x: Latency) -> dict[str, Any]:
    row: dict[str, Any] = {"Latency": x.label, "n": x.n, "mean": text.seconds(x.mean_s)}
    for name, (value, low, high) in x.quantiles.items():
        row[name] = text.seconds(value) + _interval(value, low, high)
    return row


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    """` [144, 159]` in the value's unit, ` (≤ 159 ms)` where there is only a bound, nothing without one."""
    if value is None or high is None:
        return ""
    if low is None:
        return f" (≤ {text.seconds(high)})"
    unit = text.seconds(value).rpartition(" ")[2]
    ends = [text.seconds(x) for x in (low, high)]
    same = all(e.rpartition(" ")[2] == unit for e in ends)
    return f" [{', '.join(e.rpartition(' ')[0] if same else e for e in ends)}]"


def _cell(value: float | str | None) -> str:
    if value is None:
        return text.NONE
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else plain(value)
