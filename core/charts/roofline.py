"""The roofline chart: roofs of one or several devices, and points under them, both axes logarithmic.

Knows how to draw roofs and points, not where they come from: core.analysis.roofline places points.
Measured and predicted points of the same thing are joined by a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import altair as alt

from core.analysis.roofline import Point, Roof
from core.charts.chart import PRESENT, Chart, Row, built, fed, present, si_label, unseen
from core.charts.labels import columns, short, si
from core.charts.palette import BOUNDS, DASHES, GREEN, GREY, KINDS, ORANGE, PHASE_SHAPES, PINK, RED, SKY

X_LOW, X_HIGH = 0.05, 4000.0  # FLOP per byte: from a norm in fp32 to a long prefill
LABEL, AROUND, LEAST_PLOT = 15, 170, 90  # pixels: a label's height; axis and legends below a plot; a plot at least
SMALL = 320  # pixels: up to here phases are named in the plot alone
FARTHEST = 2.5  # labels that a label may be away from its line; one that cannot be placed is in the line's tooltip
LETTER, POINT = 6.2, 10  # pixels: a label's letter, about; half of the largest point
X_TITLE = "FLOP per byte"
ColourBy = Literal["kind", "bound"]
_HERE = "#7A7F87"
_DECADE = "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 0.000001"
_DECADES_ONLY: Any = {"condition": {"test": _DECADE, "value": 1}, "value": 0}
_DEVICE_COLOURS = (_HERE, PINK, GREEN, ORANGE, SKY)
_X, _Y = alt.X("x:Q"), alt.Y("y:Q")  # of all layers but the one that has the axes


def roofline(
    roofs: Sequence[Roof], marks: Sequence[Point], colour_by: ColourBy = "kind", height: int = 600, pick: bool = True
) -> Chart:
    """Roofs, ridge points and marks. pick: clicking selects the nearest mark (selection "pick", field "id")."""
    drawn = [m for m in marks if m.intensity > 0 and m.flop_per_s > 0]
    devices = list(dict.fromkeys(r.device for r in roofs))
    lines, ends, ridges = [], [], []
    for device in devices:
        its = [r for r in roofs if r.device == device]
        parts = _of_device(its, devices.index(device), len(devices) > 1)
        lines += parts[0]
        ends += parts[1]
        ridges += parts[2]
    rows = [_row(m) for m in drawn]
    share = LABEL / max(LEAST_PLOT, height - AROUND)
    ends = _apart(ends, drawn, share)
    _give_room(ends, rows, lines, share)
    return fed(
        _spec(colour_by, height, pick),
        _words(roofs, drawn),
        roofs=lines,
        ends=ends,
        ridges=ridges,
        marks=rows,
        links=_links(drawn),
        present=present(r[colour_by] for r in rows),
    )


def _of_device(roofs: Sequence[Roof], number: int, several: bool) -> tuple[list[Row], list[Row], list[Row]]:
    """Lines, labels and ridges: diagonals up to the highest compute roof, flat lines from the steepest diagonal on."""
    compute = sorted((r for r in roofs if r.kind == "compute"), key=lambda r: -r.value)
    memory = sorted((r for r in roofs if r.kind == "memory"), key=lambda r: -r.value)
    lines: list[Row] = []
    ends: list[Row] = []
    ridges: list[Row] = []
    if not compute or not memory:
        return lines, ends, ridges
    device = roofs[0].device
    for r in memory:
        corner = compute[0].value / r.value
        x = min(X_LOW, corner / 10)
        name = f"{_mark(r)}{r.name} {si(r.value, 'B/s')}" + (f" · {device}" if several else "")
        lines += _line(r, number, name, (x, x * r.value), (corner, compute[0].value))
        ends.append(_end(r, number, name, "low", x, x * r.value))
    for r in compute:
        name = f"{_mark(r)}{r.name} {si(r.value, 'FLOP/s')}" + (f" · {device}" if several else "")
        corner = r.value / memory[0].value
        corner = max(corner, X_LOW)
        x = max(X_HIGH, corner * 4)
        lines += _line(r, number, name, (corner, r.value), (x, r.value))
        ends.append(_end(r, number, name, "high", x, r.value))
    top = next((r for r in compute if r.main), compute[0])
    slope = next((r for r in memory if r.main), memory[-1])
    ridges.append(
        {
            "x": top.value / slope.value,
            "y": top.value,
            "device": device,
            "number": _number(number),
            "text": f"ridge {si(top.value / slope.value, 'FLOP/B')}",
            "main": number == 0,
        }
    )
    return lines, ends, ridges


def _apart(ends: Sequence[Row], marks: Sequence[Point], share: float) -> list[Row]:
    """The labels of each side pushed up until none covers the next lower one; without those that would get too far.

    share: a label's height over that of the plot.
    """
    moved: list[Row] = []
    heights = [e["y"] for e in ends] + [m.flop_per_s for m in marks]
    step = (max(heights) / min(heights)) ** share if heights else 1.0
    for side in ("low", "high"):
        last = 0.0
        for end in sorted((e for e in ends if e["end"] == side), key=lambda e: e["y"]):
            y = max(end["y"], last * step)
            if end["main"] or y <= end["y"] * step**FARTHEST:
                moved.append({**end, "y": y})
                last = y
    return moved


def _give_room(ends: Sequence[Row], marks: Sequence[Row], lines: Sequence[Row], share: float) -> None:
    """Write into each label's row its `room`: the share of the plot's width from where it begins to the first point
    at its height. share: a label's height over that of the plot."""
    spots = [(math.log(m["x"]), math.log(m["y"])) for m in marks]
    xs = [x for x, _ in spots] + [math.log(line["x"]) for line in lines]
    ys = [y for _, y in spots] + [math.log(end["y"]) for end in ends]
    width, step = (
        max(xs, default=0.0) - min(xs, default=0.0) or 1.0,
        (max(ys, default=0.0) - min(ys, default=0.0)) * share,
    )
    for row in (*ends, *marks):
        x, y = math.log(row["x"]), math.log(row["y"])
        way = -1 if row.get("end") == "high" else 1
        y += step * (0.7 if way < 0 else 0)  # it stands above its line
        met = [way * (px - x) for px, py in spots if abs(py - y) < 1.1 * step and (px, py) != (x, y)]
        row["room"] = min((d for d in met if d >= 0), default=width) / width


def _mark(roof: Roof) -> str:
    return "~ " if roof.doubtful else ""


def _line(roof: Roof, number: int, name: str, start: tuple[float, float], end: tuple[float, float]) -> list[Row]:
    """One straight line as two rows that share a key."""
    return [
        {
            "line": f"{roof.device}/{roof.kind}/{roof.name}",
            "device": roof.device,
            "number": _number(number),
            "text": name,
            "main": roof.main,
            "x": x,
            "y": y,
        }
        for x, y in (start, end)
    ]


def _end(roof: Roof, number: int, name: str, end: str, x: float, y: float) -> Row:
    return {"x": x, "y": y, "text": name, "end": end, "number": _number(number), "main": roof.main}


def _number(device: int) -> str:
    return str(device % len(_DEVICE_COLOURS))


def _row(m: Point) -> Row:
    share = m.flop_per_s / m.roof_flop_per_s if m.roof_flop_per_s else None
    return {
        "id": m.id,
        "name": m.name,
        "label": f"{m.phase}" if m.whole else short(m.name),
        "kind": "other" if m.whole else m.kind,
        "phase": m.phase,
        "source": m.source,
        "x": m.intensity,
        "y": m.flop_per_s,
        "seconds": m.seconds,
        "size": m.seconds or 0.0 if not m.whole else 0.0,
        "bound": m.bound,
        "above": m.above,
        "whole": m.whole,
        "time": si(m.seconds, "s"),
        "rate": si(m.flop_per_s, "FLOP/s"),
        "intensity": si(m.intensity, "FLOP/B"),
        "roof": f"{share:.0%} of the roof" if share is not None else "no roof known",
    }


def _links(marks: Sequence[Point]) -> list[Row]:
    """A line from each predicted point to the measured point of the same id."""
    measured = {m.id: m for m in marks if m.source == "measured"}
    return [
        {
            "id": p.id,
            "x": p.intensity,
            "y": p.flop_per_s,
            "x2": measured[p.id].intensity,
            "y2": measured[p.id].flop_per_s,
        }
        for p in marks
        if p.source == "predicted" and p.id in measured
    ]


def _words(roofs: Sequence[Roof], marks: Sequence[Point]) -> str:
    about = []
    for m in marks:
        if m.whole and m.source == "measured":
            share = f" at {m.flop_per_s / m.roof_flop_per_s:.0%} of its roof" if m.roof_flop_per_s else ""
            about.append(f"{m.phase} is {m.bound}-bound{share}")
    n_above = sum(m.above for m in marks)
    if n_above:
        about.append(f"{n_above} points lie above a roof, which is an error in the ceiling or the count")
    if not roofs:
        about.append("no roof is known yet")
    return "Roofline: " + ("; ".join(about) if about else f"{len(marks)} points")


@cache
def _spec(colour_by: ColourBy, height: int, pick: bool) -> dict[str, Any]:
    below, above = _roof_layers()
    marks = alt.Chart(alt.NamedData("marks"))
    points, flagged, phases, target = _mark_layers(marks, colour_by, height > SMALL)
    layers = [unseen(), *below, points, flagged, *above, phases]
    if pick:
        chosen = alt.selection_point(name="pick", fields=["id"], nearest=True, empty=False)
        ring = marks.transform_filter(chosen).mark_point(
            shape="circle", size=520, color=RED, strokeWidth=2.2, opacity=1
        )
        layers += [ring.encode(x=_X, y=_Y), target.add_params(chosen)]
    else:
        layers.append(target)
    chart = alt.layer(*layers).resolve_scale(color="independent", strokeDash="independent")
    spec = built(chart, height)
    one_column = {"bottom": {"anchor": "middle", "direction": "vertical"}}  # a phone has no more room
    return {**spec, "config": spec.get("config", {}) | {"legend": {"layout": one_column}}}


def _axes() -> tuple[alt.X, alt.Y]:
    decades = {"gridOpacity": _DECADES_ONLY, "tickOpacity": _DECADES_ONLY}
    numbers = "datum.value < 1 ? format(datum.value, '~g') : format(datum.value, '~s')"
    x = alt.X(
        "x:Q",
        title=X_TITLE,
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(labelExpr=f"{_DECADE} ? ({numbers}) : ''", **decades),
    )
    y = alt.Y(
        "y:Q",
        title=None,
        scale=alt.Scale(type="log", nice=False, padding=18),
        axis=alt.Axis(labelExpr=f"{_DECADE} ? ({si_label('FLOP/s')}) : ''", **decades),
    )
    return x, y


def _crowded(field: str, away: int) -> str:
    """A Vega expression: whether a label would lie on a point; it is not drawn then, and the tooltip has its words.

    away: pixels from where it is anchored to its first letter.
    """
    return f"datum.room * width < {away + POINT} + {LETTER} * length(datum.{field})"


def _roof_layers() -> tuple[list[Any], list[Any]]:
    """What is drawn of the roofs below the points (lines, the ridge, links) and above them (corners, names, sides)."""
    x, y = _axes()
    device = {"domain": [str(i) for i in range(len(_DEVICE_COLOURS))]}
    device_colour = alt.Color("number:N", scale=alt.Scale(**device, range=list(_DEVICE_COLOURS)), legend=None)
    roofs = (
        alt.Chart(alt.NamedData("roofs"))
        .mark_line(clip=True)
        .encode(
            x=x,
            y=y,
            detail="line:N",
            color=device_colour,
            strokeDash=alt.StrokeDash("number:N", scale=alt.Scale(**device, range=list(DASHES[:5])), legend=None),
            strokeWidth=alt.condition("datum.main", alt.value(2.6), alt.value(1.1)),
            opacity=alt.condition("datum.main", alt.value(1), alt.value(0.65)),
            tooltip=[alt.Tooltip("text:N", title="Roof"), alt.Tooltip("device:N", title="Device")],
        )
    )
    named = alt.Chart(alt.NamedData("ends"))
    weight: Any = {
        "condition": [{"test": _crowded("text", 14), "value": 0}, {"test": "datum.main", "value": 1}],
        "value": 0.8,
    }
    low = (
        named.transform_filter("datum.end == 'low'")
        .mark_text(align="left", baseline="middle", dx=14, dy=3, fontSize=11)
        .encode(x=_X, y=_Y, text="text:N", opacity=weight, color=device_colour)
    )
    high = (
        named.transform_filter("datum.end == 'high'")
        .mark_text(align="right", baseline="bottom", dx=-4, dy=-3, fontSize=11)
        .encode(x=_X, y=_Y, text="text:N", opacity=weight, color=device_colour)
    )
    ridge = alt.Chart(alt.NamedData("ridges"))
    rule = ridge.transform_filter("datum.main").mark_rule(strokeDash=[2, 4], color=GREY, opacity=0.7).encode(x=_X)
    corner = ridge.mark_point(shape="square", size=46, filled=True, opacity=1).encode(
        x=_X,
        y=_Y,
        color=device_colour,
        tooltip=[alt.Tooltip("text:N", title="Ridge"), alt.Tooltip("device:N", title="Device")],
    )
    sides = [
        ridge.transform_filter("datum.main")
        .transform_calculate(side=f"'{words}'")
        .mark_text(align=align, baseline="bottom", dx=dx, dy=-5, fontSize=11, color=GREY)
        .encode(x=_X, y=alt.value("height"), text="side:N")
        for words, align, dx in (("memory-bound ◂", "right", -8), ("▸ compute-bound", "left", 8))
    ]
    links = (
        alt.Chart(alt.NamedData("links"))
        .mark_rule(color=GREY, opacity=0.3, strokeWidth=0.8)
        .encode(x=_X, y=_Y, x2="x2:Q", y2="y2:Q")
    )
    return [rule, roofs, links], [corner, low, high, *sides]


def _mark_layers(marks: Any, colour_by: ColourBy, large: bool) -> tuple[Any, Any, Any, Any]:
    """The points, those above a roof once more, the phases' names, and what the pointer meets."""
    meanings = KINDS if colour_by == "kind" else BOUNDS
    scale = alt.Scale(domain=list(meanings), range=list(meanings.values()))
    size: Any = alt.condition(
        "datum.whole",
        alt.value(300),
        alt.Size("size:Q", scale=alt.Scale(type="pow", exponent=0.5, zero=True, range=[24, 320]), legend=None),
    )
    shape = alt.Shape(
        "phase:N",
        title=None,
        scale=alt.Scale(domain=list(PHASE_SHAPES), range=list(PHASE_SHAPES.values())),
        legend=alt.Legend(orient="bottom", symbolFillColor=GREY, labelFontSize=12) if large else None,
    )
    legend = alt.Legend(
        orient="bottom",
        symbolType="square",
        columns=columns(80 if large else 58),
        labelFontSize=12,
        values=alt.ExprRef(PRESENT),
    )
    points = marks.mark_point(filled=False, opacity=0.85, strokeWidth=1.5).encode(
        x=_X,
        y=_Y,
        size=size,
        shape=shape,
        stroke=alt.Stroke(f"{colour_by}:N", title=None, scale=scale),
        fill=alt.Fill(f"{colour_by}:N", title=None, scale=scale, legend=legend),
        fillOpacity=alt.condition("datum.source == 'measured'", alt.value(0.75), alt.value(0)),
    )
    phases = (
        marks.transform_filter("datum.whole && datum.source == 'measured'")
        .mark_text(align="left", baseline="middle", dx=13, fontSize=12, fontWeight="bold", color=GREY)
        .encode(x=_X, y=_Y, text="label:N", opacity=alt.condition(_crowded("label", 13), alt.value(0), alt.value(1)))
    )
    flagged = (
        marks.transform_filter("datum.above")
        .mark_point(shape="M-1,-1L1,1M1,-1L-1,1", size=260, color=RED, strokeWidth=2, filled=False, opacity=1)
        .encode(x=_X, y=_Y)
    )
    titles = {
        "name": "Layer",
        "source": "Point",
        "phase": "Phase",
        "kind": "Kind",
        "intensity": "Intensity",
        "rate": "Rate",
        "time": "Time",
        "bound": "Bound by",
        "roof": "Distance",
    }
    told = [alt.Tooltip(f"{name}:N", title=title) for name, title in titles.items()]
    target = marks.mark_point(filled=True, opacity=0, size=160).encode(x=_X, y=_Y, tooltip=told)
    return points, flagged, phases, target
