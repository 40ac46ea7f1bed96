"""What is gained against what is lost: the Pareto front of variants, and their differences from a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt

from core.charts.chart import Chart, Row, built, fed, listed
from core.charts.labels import columns
from core.charts.palette import BACKENDS, GREEN, GREY, PINK, RED, SERIES, SKY

# Where a label stands: to the right of its point or to the left, and pixels down.
PLACES = {
    "above": ("left", 8, -8),
    "below": ("left", 8, 14),
    "left above": ("right", -8, -8),
    "left below": ("right", -8, 14),
    "right": ("left", 8, 4),
    "left": ("right", -8, 4),
}
WIDTHS = {"narrow": 240, "usual": 480, "wide": 800}  # pixels of the narrowest plot for which labels are so placed
HEIGHT = 380  # pixels of the plane
FRAME = 160  # pixels that axis, legend and padding take of its height
PADDING, PADDING_Y = 60, 20  # pixels that a plot keeps free at its sides, and above and below
LETTER, LINE, DOT = 6.2, 12, 5  # pixels of a label's letters and lines, and from a point's middle to its edge
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
    pick: bool = False,
) -> Chart:
    """Variants with their intervals, and the front's steps: further right and further up is better.

    Doublings of speed stand equally far apart. pick: clicking selects the nearest variant (selection "pick", field
    "id").
    """
    placed = {name: _placed(points, width) for name, width in WIDTHS.items()}
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
            **{name: places[i] for name, places in placed.items()},
        }
        for i, p in enumerate(points)
    ]
    steps = sorted((p for p in points if p.on_front), key=lambda p: (p.x, -p.y))
    best = _upper(steps)
    line = [{"x": p.x, "y": p.y, "order": n} for n, p in enumerate(best)]
    words = f"{y_title} over {x_title} of {len(points)} variants, {len(best)} of them on the front"
    words = listed(words, [p.label for p in best])
    spec = _pareto_spec(tuple(dict.fromkeys(p.group for p in points)), x_title, y_title, pick)
    return fed(spec, words, points=rows, front=line)


def _placed(points: Sequence[Point], width: int) -> list[str]:
    """Where each label stands, one of PLACES, so that none lies on another or on a point, or leaves the plot.

    "": where there is no room for it; the tooltip names every point. Those on the front come first.
    width: pixels of the plot, its padding among them.
    """

    def scaled(value: float) -> float:
        return math.log2(value) if value > 0 else value

    across = [scaled(e) for p in points for e in (p.x, p.x_low, p.x_high) if e is not None]
    up = [e for p in points for e in (p.y, p.y_low, p.y_high) if e is not None]
    wide, tall = max(across, default=0) - min(across, default=0) or 1.0, max(up, default=0) - min(up, default=0) or 1.0
    dots = [
        (
            PADDING + (scaled(p.x) - min(across)) / wide * (width - 2 * PADDING),
            PADDING_Y + (max(up) - p.y) / tall * (HEIGHT - FRAME - 2 * PADDING_Y),
        )
        for p in points
    ]
    taken = [(x - DOT, x + DOT, y - DOT, y + DOT) for x, y in dots]
    found = [""] * len(points)
    for i in sorted(range(len(points)), key=lambda i: not points[i].on_front):
        x, y = dots[i]
        long = LETTER * len(points[i].label)
        for place, (align, dx, dy) in PLACES.items():
            left = x + dx if align == "left" else x + dx - long
            box = (left, left + long, y + dy - LINE, y + dy)
            others = [t for n, t in enumerate(taken) if n != i]
            if box[0] < 0 or box[1] > width or any(_meet(box, other) for other in others):
                continue
            taken.append(box)
            found[i] = place
            break
    return found


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """Whether two boxes (left, right, top, bottom) have a pixel in common."""
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _upper(steps: Sequence[Point]) -> list[Point]:
    """Of the front's members those that nothing beats in this plane: a third objective may have brought the others."""
    found: list[Point] = []
    for point in sorted(steps, key=lambda p: (-p.x, -p.y)):
        if not found or point.y > found[-1].y:
            found.append(point)
    return found[::-1]


@cache
def _pareto_spec(groups: tuple[str, ...], x_title: str, y_title: str, pick: bool) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("points"))
    scale = alt.Scale(type="log", base=2, nice=False, padding=PADDING)
    axis = alt.Axis(format="~g", gridOpacity=0.4, tickCount=6, labelOverlap="greedy")
    x = alt.X("x:Q", title=x_title, scale=scale, axis=axis)
    y = alt.Y(
        "y:Q",
        title=y_title,
        scale=alt.Scale(zero=False, nice=False, padding=PADDING_Y),
        axis=alt.Axis(format=".0%", gridOpacity=0.4),
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
        alt.Tooltip("y:Q", title=y_title, format=".1%"),
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
    where = f"(width < {WIDTHS['usual']} ? datum.narrow : width < {WIDTHS['wide']} ? datum.usual : datum.wide)"
    names = [
        base.transform_filter(f"{where} == '{place}'")
        .mark_text(align=align, baseline="bottom", dx=dx, dy=dy, fontSize=11, color=GREY)
        .encode(x=x, y=y, text="label:N")
        for place, (align, dx, dy) in PLACES.items()
    ]
    layers = [front, wide, tall, dots, *names]
    if pick:
        chosen = alt.selection_point(name="pick", fields=["id"], nearest=True, empty=False)
        ring = base.transform_filter(chosen).mark_point(size=320, strokeWidth=2, color=SKY, filled=False)
        target = base.mark_point(size=400, opacity=0, filled=True).encode(x=x, y=y, tooltip=tips)
        layers += [ring.encode(x=x, y=y), target.add_params(chosen)]
    return built(alt.layer(*layers), HEIGHT)


def deltas(rows: Sequence[Delta], title: str, margin: float | None = None) -> Chart:
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
    told = [
        f"{r.label} {r.effect} in {r.metric} by {abs(r.value):.3g}" for r in rows if r.effect in ("better", "worse")
    ]
    return fed(_deltas_spec(title), listed(words, told), rows=data, lines=lines)


@cache
def _deltas_spec(title: str) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    y = alt.Y(
        "label:N",
        title=None,
        sort=None,
        axis=alt.Axis(labelLimit=220, ticks=False, domain=False, labelPadding=8, labelOverlap=False, labelFontSize=12),
    )
    axis = alt.Axis(format="+.0%", tickCount=6, gridOpacity=0.4)
    colour = alt.Color(
        "effect:N",
        title=None,
        scale=alt.Scale(domain=list(EFFECTS), range=list(EFFECTS.values())),
        legend=alt.Legend(orient="bottom", labelFontSize=12, columns=columns(150)),
    )
    shape = alt.Shape(
        "effect:N", title=None, scale=alt.Scale(domain=list(EFFECTS), range=["triangle-down", "circle", "triangle-up"])
    )
    tips = [
        alt.Tooltip("label:N", title="Variant"),
        alt.Tooltip("metric:N", title="Metric"),
        alt.Tooltip("value:Q", title="Difference", format="+.1%"),
        alt.Tooltip("low:Q", title="From", format="+.1%"),
        alt.Tooltip("high:Q", title="To", format="+.1%"),
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
