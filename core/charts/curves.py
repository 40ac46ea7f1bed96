"""Curves and intervals: bandwidth over working set, memory over what grows it, predictions with their range."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import altair as alt

from core.charts.chart import Chart, Row, built, fed, si_label
from core.charts.labels import si
from core.charts.palette import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY

PARTS = {"weights": BLUE, "KV cache": ORANGE, "activations": GREEN, "workspace": PINK, "runtime": GREY}
STEPS = {
    "runtime": GREY,
    **{k: v for k, v in PARTS.items() if k != "runtime"},
    "opening the model": SKY,
    "while running": RED,
}
PLAIN = ("tok/s",)  # units that take no SI prefix
Scale = Literal["linear", "log"]


class Interval(NamedTuple):
    """A predicted figure of one thing. fits: whether it fits there; False is drawn as crossed out."""

    name: str
    ideal: float
    calibrated: float
    low: float
    high: float
    fits: bool = True
    note: str = ""


def bandwidth_curve(
    reads: Sequence[tuple[float, float]],
    knees: Sequence[float] = (),
    working_set_bytes: float | None = None,
    height: int = 240,
) -> Chart:
    """Read bandwidth (bytes/s) over the working set (bytes), the caches' ends, and where a model stands."""
    rows = [{"x": x, "y": y, "text": f"{si(x, 'B')}: {si(y, 'B/s')}"} for x, y in sorted(reads)]
    marks = [{"x": k, "text": f"cache ends near {si(k, 'B')}", "what": "knee"} for k in knees]
    if working_set_bytes:
        marks.append(
            {"x": working_set_bytes, "text": f"this model reads {si(working_set_bytes, 'B')}", "what": "model"}
        )
    words = (
        f"Read bandwidth over working set, {len(knees)} cache ends found" if rows else "Read bandwidth, not measured"
    )
    return fed(_bandwidth_spec(height), words, reads=rows, marks=marks)


@cache
def _bandwidth_spec(height: int) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("reads"))
    x = alt.X(
        "x:Q",
        title="Working set",
        scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(labelExpr=si_label("B"), grid=False, tickCount=8, labelOverlap="greedy"),
    )
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(labelExpr=si_label("B/s"), tickCount=4))
    line = base.mark_line(color=BLUE, strokeWidth=2).encode(x=x, y=y)
    points = base.mark_point(filled=True, color=BLUE, size=36).encode(
        x=x, y=y, tooltip=[alt.Tooltip("text:N", title="Measured")]
    )
    marks = alt.Chart(alt.NamedData("marks"))
    rules = marks.mark_rule(strokeWidth=1.4).encode(
        x=alt.X("x:Q"),
        color=alt.condition("datum.what == 'model'", alt.value(RED), alt.value(GREY)),
        strokeDash=alt.condition("datum.what == 'model'", alt.value([1, 0]), alt.value([4, 4])),
        tooltip=[alt.Tooltip("text:N", title="Here")],
    )
    words = marks.mark_text(align="left", baseline="top", dx=5, dy=2, fontSize=11, angle=0).encode(
        x=alt.X("x:Q"),
        y=alt.value(0),
        text="text:N",
        color=alt.condition("datum.what == 'model'", alt.value(RED), alt.value(GREY)),
    )
    return built(alt.layer(rules, line, points, words), height)


def split_bars(bars: Sequence[tuple[str, dict[str, float]]], height: int = 250) -> Chart:
    """Memory by purpose, one bar per source ("computed", "measured"): (source, part -> bytes)."""
    rows: list[Row] = []
    for source, parts in bars:
        low = 0.0
        for part in STEPS:
            if parts.get(part):
                rows.append(
                    {
                        "source": source,
                        "part": part,
                        "low": low,
                        "high": low + parts[part],
                        "text": si(parts[part], "B"),
                    }
                )
                low += parts[part]
    words = "Memory by purpose: " + ", ".join(f"{name} {si(sum(p.values()), 'B')}" for name, p in bars)
    return fed(_split_spec(height), words, parts=rows)


@cache
def _split_spec(height: int) -> dict[str, Any]:
    bars = (
        alt.Chart(alt.NamedData("parts"))
        .mark_bar(height={"band": 0.7})
        .encode(
            y=alt.Y(
                "source:N",
                title=None,
                sort=None,
                axis=alt.Axis(ticks=False, domain=False, labelPadding=8, labelFontSize=12, labelLimit=170),
            ),
            x=alt.X("low:Q", title=None, axis=alt.Axis(labelExpr=si_label("B"), tickCount=5, labelOverlap="greedy")),
            x2="high:Q",
            color=alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=list(STEPS), range=list(STEPS.values())),
                legend=alt.Legend(orient="bottom", symbolType="square", columns=3, labelFontSize=12),
            ),
            tooltip=[
                alt.Tooltip("source:N", title="Source"),
                alt.Tooltip("part:N", title="Part"),
                alt.Tooltip("text:N", title="Bytes"),
            ],
        )
    )
    return built(bars, height)


def growth(
    rows: Sequence[tuple[float, dict[str, float]]],
    x_title: str,
    now: float | None = None,
    limits: Sequence[tuple[str, float]] = (),
    x_scale: Scale = "log",
    height: int = 300,
) -> Chart:
    """Memory over a quantity, stacked by purpose. rows: (x, part -> bytes); limits: (device, bytes) as lines."""
    stacked: list[Row] = []
    for x, parts in rows:
        low = 0.0
        for part in PARTS:
            high = low + parts.get(part, 0.0)
            stacked.append(
                {
                    "x": x,
                    "part": part,
                    "low": low,
                    "high": high,
                    "text": si(parts.get(part, 0.0), "B"),
                    "n": f"{x:,.0f}",
                }
            )
            low = high
    top = max((sum(parts.values()) for _, parts in rows), default=0.0)
    lines = [{"y": b, "text": f"{name} {si(b, 'B')}"} for name, b in limits if 0 < b <= 2 * top]
    here = [{"x": now}] if now is not None else []
    words = f"Memory over {x_title.lower()}, up to {si(top, 'B')}" if rows else f"Memory over {x_title.lower()}"
    return fed(_growth_spec(x_title, x_scale, height), words, stacked=stacked, lines=lines, here=here)


@cache
def _growth_spec(x_title: str, x_scale: Scale, height: int) -> dict[str, Any]:
    scale = alt.Scale(type="log", base=2, nice=False) if x_scale == "log" else alt.Scale(nice=False, zero=False)
    x = alt.X(
        "x:Q",
        title=x_title,
        scale=scale,
        axis=alt.Axis(format=",.4~g" if x_scale == "linear" else ",d", grid=False, labelOverlap="greedy", tickCount=8),
    )
    areas = (
        alt.Chart(alt.NamedData("stacked"))
        .mark_area(opacity=0.8)
        .encode(
            x=x,
            y=alt.Y("low:Q", title=None, axis=alt.Axis(labelExpr=si_label("B"), tickCount=5)),
            y2="high:Q",
            color=alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=list(PARTS), range=list(PARTS.values())),
                legend=alt.Legend(orient="bottom", symbolType="square", columns=5, labelFontSize=12),
            ),
            tooltip=[
                alt.Tooltip("part:N", title="Part"),
                alt.Tooltip("text:N", title="Bytes"),
                alt.Tooltip("n:N", title=x_title),
            ],
        )
    )
    limits = alt.Chart(alt.NamedData("lines"))
    rules = limits.mark_rule(color=RED, strokeDash=[6, 4], strokeWidth=1.4).encode(y=alt.Y("y:Q"))
    names = limits.mark_text(align="left", baseline="bottom", dx=6, dy=-3, fontSize=11, color=RED).encode(
        x=alt.value(0), y=alt.Y("y:Q"), text="text:N"
    )
    here = (
        alt.Chart(alt.NamedData("here"))
        .mark_rule(color=GREY, strokeDash=[2, 3], strokeWidth=1.4)
        .encode(x=alt.X("x:Q"))
    )
    return built(alt.layer(areas, here, rules, names), height)


def intervals(rows: Sequence[Interval], title: str, unit: str, log: bool = True, height: int | None = None) -> Chart:
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
            "end": max(r.high, r.ideal),
            "fits": "fits" if r.fits else "does not fit",
            "text": words(r.calibrated) + ("" if r.fits else " · does not fit"),
            "range": f"{words(r.low)} to {words(r.high)}",
            "best": words(r.ideal),
            "note": r.note,
        }
        for r in rows
    ]
    return fed(
        _interval_spec(title, unit, log, height), f"{title} on {len(rows)} devices, with their ranges", rows=data
    )


@cache
def _interval_spec(title: str, unit: str, log: bool, height: int | None) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    y = alt.Y(
        "name:N",
        title=None,
        sort=None,
        axis=alt.Axis(labelLimit=200, ticks=False, domain=False, labelPadding=8, labelOverlap=False, labelFontSize=12),
    )
    scale = alt.Scale(type="log", nice=False, padding=14) if log else alt.Scale(zero=True)
    label = "format(datum.value, ',')" if unit in PLAIN else si_label(unit)
    axis = alt.Axis(labelExpr=label, tickCount=6, labelOverlap="greedy", gridOpacity=0.4)
    domain, colours = ["fits", "does not fit"], [BLUE, GREY]
    colour = alt.Color(
        "fits:N",
        title=None,
        scale=alt.Scale(domain=domain, range=colours),
        legend=alt.Legend(orient="bottom", labelFontSize=12),
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
    words = base.mark_text(align="left", baseline="middle", dx=8, fontSize=11, color=GREY).encode(
        y=y, x=alt.X("end:Q"), text="text:N"
    )
    layered = alt.layer(bars, ticks, dots, words)
    if height is not None:
        return built(layered, height)
    return {
        **built(layered.properties(height=alt.Step(26)), None),
        "autosize": {"type": "fit-x", "contains": "padding"},
    }


def weight_bars(rows: Sequence[tuple[str, float, float, float]], height: int = 280) -> Chart:
    """Layer by layer in the order in which they run: (name, weights, own output, live outputs), all in bytes."""
    data: list[Row] = []
    for i, (name, weights, output, live) in enumerate(rows):
        for what, b in (("weights", weights), ("live activations", live)):
            data.append({"i": i, "name": name, "what": what, "bytes": b, "text": si(b, "B"), "output": si(output, "B")})
    top = max(rows, key=lambda r: r[3], default=None)
    words = f"Weights and live activations layer by layer; most is alive at {top[0]}" if top else "Layer memory"
    return fed(_weight_spec(height), words, layers=data)


@cache
def _weight_spec(height: int) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("layers"))
    x = alt.X(
        "i:Q",
        title="Layer, in the order in which they run",
        axis=alt.Axis(format="d", grid=False),
        scale=alt.Scale(nice=False),
    )
    y = alt.Y(
        "bytes:Q",
        title=None,
        scale=alt.Scale(type="symlog", constant=10000),
        axis=alt.Axis(labelExpr=si_label("B"), tickCount=5, labelOverlap="greedy"),
    )
    colour = alt.Color(
        "what:N",
        title=None,
        scale=alt.Scale(domain=["weights", "live activations"], range=[SKY, GREEN]),
        legend=alt.Legend(orient="bottom", symbolType="stroke", labelFontSize=12),
    )
    tips = [
        alt.Tooltip("name:N", title="Layer"),
        alt.Tooltip("what:N", title="What"),
        alt.Tooltip("text:N", title="Bytes"),
        alt.Tooltip("output:N", title="Its own output"),
    ]
    bars = (
        base.transform_filter("datum.what == 'weights'")
        .mark_bar(opacity=0.8, width=2)
        .encode(x=x, y=y, color=colour, tooltip=tips)
    )
    line = (
        base.transform_filter("datum.what == 'live activations'")
        .mark_line(interpolate="step", strokeWidth=1.6)
        .encode(x=x, y=y, color=colour)
    )
    dots = (
        base.transform_filter("datum.what == 'live activations'")
        .mark_point(size=40, opacity=0)
        .encode(x=x, y=y, tooltip=tips)
    )
    return built(alt.layer(bars, line, dots), height)
