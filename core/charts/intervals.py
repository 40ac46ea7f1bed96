"""Predictions as intervals: a row per device or backend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt

from core.charts.chart import PRESENT, Chart, Row, built, fed, listed, present, si_label, unseen
from core.charts.labels import few, si
from core.charts.palette import BLUE, GREY, ORANGE

ROOM, LEAST = 0.6, 4.0  # of the axis beside the bars, in powers of its own length, and at least a factor
PLAIN = ("tok/s",)  # units that take no SI prefix


class Interval(NamedTuple):
    """A predicted figure of one thing. fits: whether it fits there; False is drawn as crossed out."""

    name: str
    ideal: float
    calibrated: float
    low: float
    high: float
    fits: bool = True
    note: str = ""


def intervals(rows: Sequence[Interval], title: str, unit: str) -> Chart:
    """A figure for several things: tick at the ideal, bar over the likely range, dot at the calibrated estimate."""

    def words(value: float) -> str:
        if unit in PLAIN:
            return f"{value:,.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
        return si(value, unit)

    data: list[Row] = [
        {
            "name": r.name,
            "ideal": r.ideal,
            "calibrated": r.calibrated,
            "low": r.low,
            "high": r.high,
            "left": r.ideal >= r.calibrated,
            "fits": "fits" if r.fits else "does not fit",
            "text": words(r.calibrated) + ("" if r.fits else " · does not fit"),
            "range": f"{words(r.low)} to {words(r.high)}",
            "best": words(r.ideal),
            "note": r.note,
        }
        for r in rows
    ]
    return fed(
        _interval_spec(title, unit),
        listed(f"{title} with its range", [f"{r['name']} {r['text']}" for r in data]),
        rows=data,
        room=[{"x": x} for x in _room(rows)],
        present=present(r["fits"] for r in data),
    )


def _room(rows: Sequence[Interval]) -> tuple[float, ...]:
    """How far a logarithmic axis goes, so that the numbers beside the bars have room at every width."""
    values = [v for r in rows for v in (r.ideal, r.calibrated, r.low, r.high) if v > 0]
    if not values:
        return ()
    low, high = min(values), max(values)
    share = max((high / low) ** ROOM, LEAST)
    left = any(r.ideal >= r.calibrated for r in rows)
    right = any(r.ideal < r.calibrated for r in rows)
    return (low / (share if left else share**0.1), high * (share if right else share**0.1))


@cache
def _interval_spec(title: str, unit: str) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    y = alt.Y(
        "name:N",
        title=None,
        sort=None,
        axis=alt.Axis(labelLimit=200, ticks=False, domain=False, labelPadding=8, labelOverlap=False, labelFontSize=12),
    )
    scale = alt.Scale(type="log", nice=False)
    label = "format(datum.value, '~s')" if unit in PLAIN else si_label(unit)
    shown = few("13")  # fits a phone
    lines: Any = {"condition": {"test": shown, "value": 0.4}, "value": 0}
    axis = alt.Axis(
        labelExpr=f"{shown} ? {label} : ''", tickCount=5, labelSeparation=10, gridOpacity=lines, tickOpacity=lines
    )
    domain, colours = ["fits", "does not fit"], [BLUE, GREY]
    colour = alt.Color(
        "fits:N",
        title=None,
        scale=alt.Scale(domain=domain, range=colours),
        legend=alt.Legend(orient="bottom", labelFontSize=12, values=alt.ExprRef(PRESENT)),
    )
    tips = [
        alt.Tooltip("name:N", title="Device"),
        alt.Tooltip("text:N", title="Calibrated"),
        alt.Tooltip("range:N", title="Likely range"),
        alt.Tooltip("best:N", title="Ideal roof"),
        alt.Tooltip("fits:N", title="Memory"),
        alt.Tooltip("note:N", title="Bound by"),
    ]
    bars = base.mark_bar(height=9, opacity=0.45, cornerRadius=4).encode(
        y=y, x=alt.X("low:Q", title=title, scale=scale, axis=axis), x2="high:Q", color=colour, tooltip=tips
    )
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(
        y=y,
        x=alt.X("calibrated:Q"),
        color=colour,
        shape=alt.Shape("fits:N", title=None, scale=alt.Scale(domain=domain, range=["circle", "cross"])),
        tooltip=tips,
    )
    ticks = base.mark_tick(thickness=2, size=18, color=ORANGE).encode(y=y, x=alt.X("ideal:Q"), tooltip=tips)
    # away from the ideal, so that nobody takes the estimate's number for the roof's
    left = base.transform_filter("datum.left").mark_text(
        align="right", baseline="middle", dx=-8, fontSize=11, color=GREY
    )
    right = base.transform_filter("!datum.left").mark_text(
        align="left", baseline="middle", dx=8, fontSize=11, color=GREY
    )
    words = [
        left.encode(y=y, x=alt.X("low:Q"), text="text:N"),
        right.encode(y=y, x=alt.X("high:Q"), text="text:N"),
    ]
    room = alt.Chart(alt.NamedData("room")).mark_point(opacity=0).encode(x=alt.X("x:Q"))
    layered = alt.layer(unseen(), bars, ticks, dots, *words, room)
    return {
        **built(layered.properties(height=alt.Step(26)), None),
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
