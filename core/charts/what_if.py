"""A device that might be: where its time goes, lines of equal time, what binds, and the front under cost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt

from core.charts.chart import PRESENT, Chart, Row, built, fed, listed, present, si_label, unseen
from core.charts.labels import columns, few, si
from core.charts.palette import BLUE, DASHES, GREEN, GREY, ORANGE, PINK, RED, SERIES, SKY

HUES = {"bandwidth": BLUE, "cache bandwidth": SKY, "starting kernels": GREY, "power limit": PINK}
FLOPS_HUE = RED
KINDS = (*HUES, "FLOP/s")


class Share(NamedTuple):
    """One resource's share of a phase's time. doubled: time now over time with twice of it."""

    phase: str
    resource: str
    share: float
    doubled: float
    note: str = ""


class Plane(NamedTuple):
    """A point in the plane of a device: bytes/s, FLOP/s."""

    name: str
    bandwidth: float
    flops: float
    here: bool


class Priced(NamedTuple):
    """A device under cost. kind: "real" or "hypothetical"."""

    name: str
    dollars: float
    value: float
    low: float
    high: float
    kind: str
    on_front: bool
    note: str


class Bind(NamedTuple):
    """What binds one model at one batch."""

    model: str
    batch: int
    binds: str
    words: str
    note: str


def shares(rows: Sequence[Share]) -> Chart:
    """Elasticities: every resource's share of the time, and what twice of it buys; a row of bars per phase."""
    data: list[Row] = [
        {
            "phase": r.phase,
            "resource": r.resource,
            "share": r.share,
            "words": f"{r.share:.0%}, twice of it: ×{r.doubled:.3g}{' · ridge' if r.note else ''}",
            "kind": r.resource if r.resource in HUES else "FLOP/s",
            "note": r.note,
        }
        for r in rows
    ]
    words = listed("Shares of the time, and what twice of each buys", [f"{r['resource']} {r['words']}" for r in data])
    return fed(_shares_spec(), words, rows=data)


@cache
def _shares_spec() -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    y = alt.Y(
        "resource:N",
        title=None,
        sort=None,
        axis=alt.Axis(labelLimit=190, ticks=False, domain=False, labelPadding=6, labelFontSize=12),
    )
    x = alt.X(
        "share:Q",
        title="Share of the time: its elasticity",
        scale=alt.Scale(domain=[0, 1.42], nice=False),
        axis=alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1], gridOpacity=0.4),
    )
    scale = alt.Scale(domain=list(KINDS), range=[*HUES.values(), FLOPS_HUE])
    colour = alt.Color("kind:N", scale=scale, legend=None)
    tips = [
        alt.Tooltip("phase:N", title="Phase"),
        alt.Tooltip("resource:N", title="Resource"),
        alt.Tooltip("words:N", title="Share"),
        alt.Tooltip("note:N", title="Note"),
    ]
    bars = base.mark_bar(height=15, cornerRadiusEnd=3).encode(x=x, y=y, color=colour, tooltip=tips)
    short = alt.ExprRef("width < 420 ? replace(datum.words, 'twice of it: ', '') : datum.words")  # a phone has no room
    words = base.mark_text(align="left", dx=5, fontSize=11, color=GREY, text=short).encode(
        x=alt.X("share:Q"), y=y, tooltip=tips
    )
    layered = alt.layer(bars, words).properties(height=alt.Step(26))
    return {**built(layered, None), "autosize": {"type": "fit-x", "contains": "padding"}}


def plane(
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    points: Sequence[Plane],
    flops_title: str,
    height: int = 420,
) -> Chart:
    """Lines of equal time in bandwidth and FLOP/s, with the design and devices that exist.

    lines: (name, points) each.
    """
    rows = [
        {"line": name, "bandwidth": x, "flops": y, "order": n, "text": f"{name}: {si(x, 'B/s')}, {si(y, 'FLOP/s')}"}
        for name, found in lines
        for n, (x, y) in enumerate(found)
    ]
    ends = [{"line": name, "bandwidth": found[-1][0], "flops": found[-1][1]} for name, found in lines if found]
    marks = [
        {
            "name": p.name,
            "bandwidth": p.bandwidth,
            "flops": p.flops,
            "kind": "this design" if p.here else "a device",
            "text": f"{p.name}: {si(p.bandwidth, 'B/s')}, {si(p.flops, 'FLOP/s')}",
        }
        for p in points
    ]
    names, drawn = (tuple(name for name, found in lines if found or every) for every in (True, False))
    spec = _plane_spec(names, drawn, flops_title, height)
    words = f"Lines of equal time in bandwidth and FLOP/s, {len(ends)} of {len(lines)} within reach"
    return fed(spec, words, rows=rows, ends=ends, marks=marks)


def _sparse(unit: str, axis: str) -> str:
    """Labels of a logarithmic axis at 1, 2 and 5 of each decade: there are ticks for every digit."""
    return f"{few('125', axis)} ? ({si_label(unit)}) : ''"


@cache
def _plane_spec(names: tuple[str, ...], drawn: tuple[str, ...], flops_title: str, height: int) -> dict[str, Any]:
    """drawn: of the names, those that have a line."""
    scale = alt.Scale(type="log", nice=False, padding=24)
    x = alt.X(
        "bandwidth:Q",
        title="Bandwidth",
        scale=scale,
        axis=alt.Axis(labelExpr=_sparse("B/s", "x"), tickCount=5, labelOverlap="greedy", gridOpacity=0.4),
    )
    y = alt.Y(
        "flops:Q",
        title=flops_title,
        scale=scale,
        axis=alt.Axis(labelExpr=_sparse("FLOP/s", "y"), tickCount=5, labelOverlap="greedy", gridOpacity=0.4),
    )
    hues = [SERIES[i % len(SERIES)] for i in range(len(names))]
    dashes = [DASHES[i % len(DASHES)] for i in range(len(names))]
    legend = alt.Legend(
        orient="bottom", labelFontSize=12, symbolType="stroke", columns=columns(240), labelLimit=260, values=list(drawn)
    )
    colour = alt.Color("line:N", title=None, scale=alt.Scale(domain=list(names), range=hues), legend=legend)
    dash = alt.StrokeDash("line:N", title=None, scale=alt.Scale(domain=list(names), range=dashes), legend=legend)
    lines = (
        alt.Chart(alt.NamedData("rows"))
        .mark_line(strokeWidth=2.2, interpolate="linear")
        .encode(x=x, y=y, color=colour, strokeDash=dash, order="order:Q", tooltip=[alt.Tooltip("text:N", title="Line")])
    )
    marks = alt.Chart(alt.NamedData("marks"))
    kinds = ["this design", "a device"]
    dots = marks.mark_point(filled=True, opacity=1).encode(
        x=x,
        y=y,
        shape=alt.Shape("kind:N", legend=None, scale=alt.Scale(domain=kinds, range=["diamond", "circle"])),
        size=alt.Size("kind:N", legend=None, scale=alt.Scale(domain=kinds, range=[190, 50])),
        fill=alt.Fill("kind:N", legend=None, scale=alt.Scale(domain=kinds, range=[RED, GREY])),
        tooltip=[alt.Tooltip("text:N", title="Device")],
    )
    name = (
        marks.transform_filter("datum.kind == 'this design'")
        .mark_text(align="left", dx=10, dy=-8, fontSize=12, fontWeight="bold", color=RED)
        .encode(x=x, y=y, text="name:N")
    )
    return built(alt.layer(lines, dots, name), height)


def binding(rows: Sequence[Bind]) -> Chart:
    """What binds, a cell per model and batch: its colour and its words say the resource."""
    data: list[Row] = [
        {
            "model": r.model,
            "batch": str(r.batch),
            "binds": r.binds,
            "kind": r.binds if r.binds in HUES else "FLOP/s",
            "words": r.words,
            "note": r.note,
        }
        for r in rows
    ]
    batches = tuple(dict.fromkeys(str(r.batch) for r in rows))
    counted = {r["kind"]: sum(x["kind"] == r["kind"] for x in data) for r in data}
    told = ", ".join(f"{n} of {len(data)} by {kind}" for kind, n in counted.items())
    words = f"What binds per model and batch: {told}"
    return fed(_binding_spec(batches), words, rows=data, present=present(k for k in KINDS if k in counted))


@cache
def _binding_spec(batches: tuple[str, ...]) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    x = alt.X(
        "batch:N",
        title="Batch",
        sort=list(batches),
        axis=alt.Axis(labelAngle=0, ticks=False, domain=False, orient="top"),
    )
    y = alt.Y(
        "model:N",
        title=None,
        sort=None,
        axis=alt.Axis(labelLimit=170, ticks=False, domain=False, labelPadding=6, labelFontSize=12),
    )
    legend = alt.Legend(
        orient="bottom",
        labelFontSize=12,
        columns=columns(150),
        values=alt.ExprRef(PRESENT),
        symbolType="square",
        symbolStrokeWidth=0,  # the cells' border is as thick as the symbol
    )
    scale = alt.Scale(domain=list(KINDS), range=[*HUES.values(), FLOPS_HUE])
    colour = alt.Color("kind:N", title=None, scale=scale, legend=legend)
    tips = [
        alt.Tooltip("model:N", title="Model"),
        alt.Tooltip("batch:N", title="Batch"),
        alt.Tooltip("binds:N", title="Binds"),
        alt.Tooltip("note:N", title="What helps"),
    ]
    cells = base.mark_rect(cornerRadius=3, opacity=0.28, stroke=GREY, strokeOpacity=0.25).encode(
        x=x, y=y, color=colour, tooltip=tips
    )
    words = base.mark_text(fontSize=11, lineBreak="\n", lineHeight=13, color=GREY).encode(
        x=x, y=y, text="words:N", tooltip=tips
    )
    layered = alt.layer(unseen(), cells, words).properties(height=alt.Step(44))
    return {**built(layered, None), "autosize": {"type": "fit-x", "contains": "padding"}}


def under_cost(rows: Sequence[Priced], value_title: str, unit: str, higher: bool, height: int = 400) -> Chart:
    """What a device is worth over what it costs, with the front's steps. higher: more of the value is better."""
    data: list[Row] = [
        {
            **r._asdict(),
            "text": f"{r.value:,.3g} {unit} for ${r.dollars:,.0f}" if unit == "tok/s" else
            f"{si(r.value, unit)} for ${r.dollars:,.0f}",
            "state": "on the front" if r.on_front else "beaten",
        }
        for r in rows
    ]  # fmt: skip
    steps = sorted((r for r in rows if r.on_front), key=lambda r: r.dollars)
    line = [{"dollars": r.dollars, "value": r.value, "order": n} for n, r in enumerate(steps)]
    words = f"{value_title} over price of {len(rows)} devices, {len(steps)} of them on the front"
    words = listed(words, [f"{r['name']} {r['text']}" for r in data if r["on_front"]])
    return fed(_cost_spec(value_title, unit, height), words, rows=data, front=line)


@cache
def _cost_spec(value_title: str, unit: str, height: int) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    scale = alt.Scale(type="log", nice=False, padding=64)
    x = alt.X(
        "dollars:Q",
        title="Price",
        scale=scale,
        axis=alt.Axis(format="$,.2~s", tickCount=5, labelOverlap="greedy", gridOpacity=0.4),
    )
    labels = alt.Axis(format=",.3~r", tickCount=5, gridOpacity=0.4) if unit == "tok/s" else alt.Axis(
        labelExpr=si_label(unit), tickCount=5, gridOpacity=0.4
    )  # fmt: skip
    y = alt.Y("value:Q", title=value_title, scale=alt.Scale(type="log", nice=False, padding=24), axis=labels)
    kinds = ["real", "hypothetical"]
    legend = alt.Legend(orient="bottom", labelFontSize=12)
    colour = alt.Color("kind:N", title=None, scale=alt.Scale(domain=kinds, range=[BLUE, ORANGE]), legend=legend)
    shape = alt.Shape("kind:N", title=None, scale=alt.Scale(domain=kinds, range=["circle", "diamond"]), legend=legend)
    tips = [
        alt.Tooltip("name:N", title="Device"),
        alt.Tooltip("text:N", title="Here"),
        alt.Tooltip("state:N", title="Front"),
        alt.Tooltip("note:N", title="Note"),
    ]
    front = (
        alt.Chart(alt.NamedData("front"))
        .mark_line(interpolate="step-after", color=GREEN, strokeWidth=1.6, strokeDash=[5, 3])
        .encode(x=x, y=y, order="order:Q")
    )
    ranges = base.mark_rule(strokeWidth=1.4, opacity=0.5).encode(
        x=x, y=alt.Y("low:Q", title=value_title), y2="high:Q", color=colour
    )
    dots = base.mark_point(size=110, filled=True).encode(
        x=x,
        y=y,
        color=colour,
        shape=shape,
        opacity=alt.condition("datum.on_front", alt.value(1), alt.value(0.45)),
        tooltip=tips,
    )
    names = base.mark_text(align="left", dx=9, dy=-7, fontSize=11, color=GREY).encode(x=x, y=y, text="name:N")
    return built(alt.layer(front, ranges, dots, names), height)
