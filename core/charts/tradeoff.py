"""What is gained against what is lost: the Pareto front of variants, and their differences from a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt

from core.charts.chart import Chart, Row, built, fed
from core.charts.palette import BLUE, GREEN, GREY, ORANGE, PINK, RED, SERIES, SKY

BACKENDS = {"llama.cpp": BLUE, "ONNX Runtime": GREEN, "PyTorch": ORANGE}
PLACES = {"above": -8, "below": 14}  # pixels from a point to its label
WIDTH, FRAME = 560, 160  # pixels: of a usual plot, and what axis, legend and padding take of its height
LETTER, LINE = 6.2, 12  # pixels of a label's letters and lines
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
EFFECTS = {"worse": RED, "not shown to differ": GREY, "better": GREEN}


class Point(NamedTuple):
    """A variant in the plane of two objectives, each with its interval (None: not known). member: 0 to 1."""

    id: str
    label: str
    group: str
    x: float
    y: float
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None
    on_front: bool = False
    member: float | None = None
    note: str = ""


class Delta(NamedTuple):
    """A variant's difference from the baseline on one metric. effect: one of EFFECTS."""

    id: str
    label: str
    metric: str
    value: float
    low: float | None
    high: float | None
    effect: str = "not shown to differ"
    note: str = ""


def pareto(
    points: Sequence[Point],
    x_title: str,
    y_title: str,
    y_format: str = ".0%",
    log_x: bool = True,
    height: int = 380,
    pick: bool = False,
) -> Chart:
    """Variants with their intervals, and the front's steps: further right and further up is better.

    log_x: halvings of time stand equally far apart. pick: clicking selects the nearest variant (selection "pick",
    field "id").
    """
    rows: list[Row] = [
        {
            "id": p.id,
            "label": p.label,
            "group": p.group,
            "x": p.x,
            "y": p.y,
            "x_low": p.x if p.x_low is None else p.x_low,
            "x_high": p.x if p.x_high is None else p.x_high,
            "y_low": p.y if p.y_low is None else p.y_low,
            "y_high": p.y if p.y_high is None else p.y_high,
            "front": p.on_front,
            "member": "" if p.member is None else f"on the front in {p.member:.0%} of the draws",
            "note": p.note,
            "place": place,
        }
        for p, place in zip(points, _placed(points, log_x, height), strict=True)
    ]
    steps = sorted((p for p in points if p.on_front), key=lambda p: (p.x, -p.y))
    best = _upper(steps)
    line = [{"x": p.x, "y": p.y, "order": n} for n, p in enumerate(best)]
    words = f"{y_title} over {x_title} of {len(points)} variants, {len(best)} of them on the front"
    spec = _pareto_spec(tuple(dict.fromkeys(p.group for p in points)), x_title, y_title, y_format, log_x, height, pick)
    return fed(spec, words, points=rows, front=line)


def _placed(points: Sequence[Point], log_x: bool, height: int) -> list[str]:
    """Where each label stands, one of PLACES, so that none lies on another; "" where there is no room.

    Those on the front come first. The tooltip names every point.
    """
    x = [math.log2(p.x) if log_x and p.x > 0 else p.x for p in points]
    ends = [e for p in points for e in (p.y, p.y_low, p.y_high) if e is not None]
    wide, tall = max(x, default=0) - min(x, default=0) or 1.0, max(ends, default=0) - min(ends, default=0) or 1.0
    found = [""] * len(points)
    taken: list[tuple[float, float, float]] = []  # left, right and middle of the labels
    for i in sorted(range(len(points)), key=lambda i: not points[i].on_front):
        left = (x[i] - min(x)) / wide * WIDTH
        right = left + LETTER * len(points[i].label)
        for place, dy in PLACES.items():
            middle = (max(ends) - points[i].y) / tall * (height - FRAME) + dy
            if all(right < a or left > b or abs(middle - m) > LINE for a, b, m in taken):
                taken.append((left, right, middle))
                found[i] = place
                break
    return found


def _upper(steps: Sequence[Point]) -> list[Point]:
    """Of the front's members those that nothing beats in this plane: a third objective may have brought the others."""
    found: list[Point] = []
    for point in sorted(steps, key=lambda p: (-p.x, -p.y)):
        if not found or point.y > found[-1].y:
            found.append(point)
    return found[::-1]


@cache
def _pareto_spec(
    groups: tuple[str, ...], x_title: str, y_title: str, y_format: str, log_x: bool, height: int, pick: bool
) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("points"))
    scale = alt.Scale(type="log", base=2, nice=False, padding=60) if log_x else alt.Scale(zero=False, padding=40)
    x = alt.X("x:Q", title=x_title, scale=scale, axis=alt.Axis(format="~g", gridOpacity=0.4))
    y = alt.Y(
        "y:Q", title=y_title, scale=alt.Scale(zero=False, padding=20), axis=alt.Axis(format=y_format, gridOpacity=0.4)
    )
    others = [c for c in SERIES if c not in BACKENDS.values()]
    colours = [BACKENDS.get(g, others[i % len(others)]) for i, g in enumerate(groups)]
    legend = alt.Legend(orient="bottom", labelFontSize=12)
    colour = alt.Color("group:N", title=None, scale=alt.Scale(domain=list(groups), range=colours), legend=legend)
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(groups))]
    shape = alt.Shape("group:N", title=None, scale=alt.Scale(domain=list(groups), range=shapes), legend=legend)
    tips = [
        alt.Tooltip("label:N", title="Variant"),
        alt.Tooltip("x:Q", title=x_title, format=".3~g"),
        alt.Tooltip("y:Q", title=y_title, format=y_format.replace(".0", ".1")),
        alt.Tooltip("member:N", title="Front"),
        alt.Tooltip("note:N", title="Note"),
    ]
    front = (
        alt.Chart(alt.NamedData("front"))
        .mark_line(interpolate="step-before", color=PINK, strokeWidth=1.5, strokeDash=[5, 3])
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"), order="order:Q")
    )
    wide = base.mark_rule(strokeWidth=1.2, opacity=0.55).encode(
        x=alt.X("x_low:Q", scale=scale, title=x_title), x2="x_high:Q", y=y, color=colour
    )
    tall = base.mark_rule(strokeWidth=1.2, opacity=0.55).encode(x=x, y=alt.Y("y_low:Q"), y2="y_high:Q", color=colour)
    dots = base.mark_point(size=80, filled=True, opacity=1).encode(
        x=x,
        y=y,
        color=colour,
        shape=shape,
        tooltip=tips,
        opacity=alt.condition("datum.front", alt.value(1), alt.value(0.5)),
    )
    names = [
        base.transform_filter(alt.datum.place == place)
        .mark_text(align="left", dx=8, dy=dy, fontSize=11, color=GREY)
        .encode(x=x, y=y, text="label:N")
        for place, dy in PLACES.items()
    ]
    layers = [front, wide, tall, dots, *names]
    if pick:
        chosen = alt.selection_point(name="pick", fields=["id"], nearest=True, empty=False)
        ring = base.transform_filter(chosen).mark_point(size=320, strokeWidth=2, color=SKY, filled=False)
        target = base.mark_point(size=400, opacity=0, filled=True).encode(x=x, y=y, tooltip=tips)
        layers += [ring.encode(x=x, y=y), target.add_params(chosen)]
    return built(alt.layer(*layers), height)


def deltas(rows: Sequence[Delta], title: str, value_format: str = "+.0%", margin: float | None = None) -> Chart:
    """Differences from the baseline with their intervals, one row per variant, one column of rows per metric.

    margin: how much worse still counts as equal, drawn as a line below zero.
    """
    data: list[Row] = [
        {
            "id": r.id,
            "label": r.label,
            "metric": r.metric,
            "value": r.value,
            "low": r.value if r.low is None else r.low,
            "high": r.value if r.high is None else r.high,
            "effect": r.effect,
            "note": r.note,
        }
        for r in rows
    ]
    lines = [{"x": 0.0}, *([{"x": -margin}] if margin else [])]
    shown = sum(r.effect != "not shown to differ" for r in rows)
    words = f"{title} of {len(rows)} variants, {shown} of them shown to differ from the baseline"
    return fed(_deltas_spec(title, value_format), words, rows=data, lines=lines)


@cache
def _deltas_spec(title: str, value_format: str) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    y = alt.Y(
        "label:N",
        title=None,
        sort=None,
        axis=alt.Axis(labelLimit=220, ticks=False, domain=False, labelPadding=8, labelOverlap=False, labelFontSize=12),
    )
    axis = alt.Axis(format=value_format, tickCount=6, gridOpacity=0.4)
    colour = alt.Color(
        "effect:N",
        title=None,
        scale=alt.Scale(domain=list(EFFECTS), range=list(EFFECTS.values())),
        legend=alt.Legend(orient="bottom", labelFontSize=12),
    )
    shape = alt.Shape(
        "effect:N", title=None, scale=alt.Scale(domain=list(EFFECTS), range=["triangle-down", "circle", "triangle-up"])
    )
    tips = [
        alt.Tooltip("label:N", title="Variant"),
        alt.Tooltip("metric:N", title="Metric"),
        alt.Tooltip("value:Q", title="Difference", format=value_format.replace(".0", ".1")),
        alt.Tooltip("low:Q", title="From", format=value_format.replace(".0", ".1")),
        alt.Tooltip("high:Q", title="To", format=value_format.replace(".0", ".1")),
        alt.Tooltip("effect:N", title="Verdict"),
        alt.Tooltip("note:N", title="Note"),
    ]
    bars = base.mark_rule(strokeWidth=2.5, opacity=0.6).encode(
        y=y, x=alt.X("low:Q", title=title, axis=axis), x2="high:Q", color=colour, tooltip=tips
    )
    dots = base.mark_point(size=80, filled=True, opacity=1).encode(
        y=y, x=alt.X("value:Q"), color=colour, shape=shape, tooltip=tips
    )
    rules = (
        alt.Chart(alt.NamedData("lines"))
        .mark_rule(color=GREY)
        .encode(
            x=alt.X("x:Q"),
            strokeDash=alt.condition("datum.x == 0", alt.value([1, 0]), alt.value([4, 4])),
        )
    )
    layered = alt.layer(rules, bars, dots).properties(height=alt.Step(24))
    return {**built(layered, None), "autosize": {"type": "fit-x", "contains": "padding"}}
