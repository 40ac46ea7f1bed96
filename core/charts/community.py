"""Machines of many people on one chart: what each reaches over what its memory allows, and what is set apart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt

from core.charts.chart import Chart, Row, built, fed, si_label
from core.charts.labels import few, plain, si
from core.charts.palette import BLUE, GREY, ORANGE, RED

WHOSE = {"mine": (ORANGE, "diamond"), "others": (BLUE, "circle"), "set apart": (RED, "cross")}
HEIGHT = 380
FAR = 3.0  # times the best: what is said to lie beyond it is drawn there, at the chart's top


class Mark(NamedTuple):
    """A machine under one configuration. bandwidth: its memory's, in bytes per second. whose: one of WHOSE."""

    machine: str
    whose: str
    bandwidth: float
    tok_per_s: float
    low: float
    high: float
    note: str = ""


def over_bandwidth(marks: Sequence[Mark], bytes_per_token: float) -> Chart:
    """Tokens per second over the memory's bandwidth, both logarithmic; the line is all that memory could feed."""
    shown = [m for m in marks if m.bandwidth > 0 and m.tok_per_s > 0]
    believed = [m for m in shown if m.whose != "set apart"]
    top = FAR * max((max(m.tok_per_s, m.bandwidth / bytes_per_token) for m in believed), default=1.0)
    best = max(believed, key=lambda m: m.tok_per_s, default=None)
    rows: list[Row] = [
        {
            "machine": m.machine,
            "whose": m.whose,
            "bandwidth": m.bandwidth,
            "tok_per_s": min(m.tok_per_s, top),
            "low": min(m.low, top),
            "high": min(m.high, top),
            "name": m.machine.split(",")[0] if m is best or m.whose == "mine" else "",
            "text": f"{plain(m.tok_per_s)} tok/s",
            "memory": si(m.bandwidth, "B/s"),
            "note": m.note,
        }
        for m in shown
    ]
    ends = [m.bandwidth for m in shown]
    line = [{"bandwidth": b, "limit": b / bytes_per_token} for b in (min(ends) / 1.6, max(ends) * 1.6)] if ends else []
    n_apart = sum(m.whose == "set apart" for m in shown)
    words = f"{len(shown) - n_apart} machines by tokens per second over the bandwidth of their memory"
    words += f", and {n_apart} rows that are set apart" if n_apart else ""
    return fed(_spec(), words, marks=rows, limit=line)


@cache
def _spec() -> dict[str, Any]:
    scale = alt.Scale(type="log", nice=False, padding=14)
    across = alt.X(
        "bandwidth:Q",
        title="Memory bandwidth, measured",
        scale=scale,
        axis=alt.Axis(
            labelExpr=f"{few('15')} ? ({si_label('B/s')}) : ''", tickCount=5, gridOpacity=0.4, labelOverlap="greedy"
        ),
    )
    label = alt.Axis(labelExpr=f"{few('15', 'y')} ? format(datum.value, ',~g') : ''", tickCount=5, gridOpacity=0.4)
    up = alt.Y("tok_per_s:Q", title="Tokens per second (higher is better)", scale=scale, axis=label)
    names = list(WHOSE)
    legend = alt.Legend(orient="bottom", labelFontSize=12)
    colours = [colour for colour, _ in WHOSE.values()]
    colour = alt.Color("whose:N", title=None, scale=alt.Scale(domain=names, range=colours), legend=legend)
    tips = [
        alt.Tooltip("machine:N", title="Machine"),
        alt.Tooltip("text:N", title="Measured"),
        alt.Tooltip("memory:N", title="Memory"),
        alt.Tooltip("note:N", title="Note"),
    ]
    base = alt.Chart(alt.NamedData("marks"))
    limit = (
        alt.Chart(alt.NamedData("limit"))
        .mark_line(color=GREY, strokeDash=[6, 4])
        .encode(x=across, y=alt.Y("limit:Q", scale=scale, axis=label))
    )
    spread = base.mark_rule(strokeWidth=2, opacity=0.6).encode(
        x=across,
        y=alt.Y("low:Q", scale=scale, axis=label),
        y2="high:Q",
        color=colour,
    )
    points = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=across,
        y=up,
        color=colour,
        shape=alt.Shape("whose:N", title=None, scale=alt.Scale(domain=names, range=[s for _, s in WHOSE.values()])),
        tooltip=tips,
    )
    words = base.mark_text(align="left", dx=9, dy=-7, fontSize=11, color=GREY, limit=190).encode(
        x=across, y=up, text="name:N"
    )
    return built(alt.layer(limit, spread, points, words), HEIGHT)
