"""Memory by purpose: side by side, as it grows with one quantity, and layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import altair as alt

from core.charts.chart import PRESENT, Chart, Row, built, fed, present, si_label, unseen
from core.charts.labels import columns, si
from core.charts.palette import BLUE, GREEN, GREY, OLIVE, ORANGE, PINK, RED, SKY

PARTS = {"weights": BLUE, "KV cache": ORANGE, "activations": GREEN, "workspace": PINK, "runtime": GREY}
STEPS = {
    "runtime": GREY,
    **{k: v for k, v in PARTS.items() if k != "runtime"},
    "opening the model": SKY,
    "held before the run": OLIVE,
    "while running": RED,
}
Scale = Literal["linear", "log"]


def split_bars(bars: Sequence[tuple[str, dict[str, float]]]) -> Chart:
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
    return fed(
        _split_spec(),
        words,
        parts=rows,
        present=present(part for part in STEPS if any(r["part"] == part for r in rows)),
    )


@cache
def _split_spec() -> dict[str, Any]:
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
                legend=alt.Legend(
                    orient="bottom",
                    symbolType="square",
                    columns=columns(115),
                    labelFontSize=12,
                    values=alt.ExprRef(PRESENT),
                ),
            ),
            tooltip=[
                alt.Tooltip("source:N", title="Source"),
                alt.Tooltip("part:N", title="Part"),
                alt.Tooltip("text:N", title="Bytes"),
            ],
        )
    )
    return built(alt.layer(unseen(), bars), 250)


def growth(
    rows: Sequence[tuple[float, dict[str, float]]],
    x_title: str,
    now: float | None = None,
    x_scale: Scale = "log",
) -> Chart:
    """Memory over a quantity, stacked by purpose. rows: (x, part -> bytes). now: the x of the run, as a line."""
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
    here = [{"x": now}] if now is not None else []
    words = f"Memory over {x_title.lower()}, up to {si(top, 'B')}" if rows else f"Memory over {x_title.lower()}"
    return fed(_growth_spec(x_title, x_scale), words, stacked=stacked, here=here)


@cache
def _growth_spec(x_title: str, x_scale: Scale) -> dict[str, Any]:
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
                legend=alt.Legend(orient="bottom", symbolType="square", columns=columns(105), labelFontSize=12),
            ),
            tooltip=[
                alt.Tooltip("part:N", title="Part"),
                alt.Tooltip("text:N", title="Bytes"),
                alt.Tooltip("n:N", title=x_title),
            ],
        )
    )
    here = (
        alt.Chart(alt.NamedData("here"))
        .mark_rule(color=GREY, strokeDash=[2, 3], strokeWidth=1.4)
        .encode(x=alt.X("x:Q"))
    )
    return built(alt.layer(areas, here), 300)


def weight_bars(rows: Sequence[tuple[str, float, float, float]]) -> Chart:
    """Layer by layer in the order in which they run: (name, weights, own output, live outputs), all in bytes."""
    data: list[Row] = []
    for i, (name, weights, output, live) in enumerate(rows):
        for what, b in (("weights", weights), ("live activations", live)):
            data.append({"i": i, "name": name, "what": what, "bytes": b, "text": si(b, "B"), "output": si(output, "B")})
    top = max(rows, key=lambda r: r[3], default=None)
    words = (
        f"Weights and live activations layer by layer; most is alive at {top[0]}, {si(top[3], 'B')}"
        if top
        else "Layer memory"
    )
    return fed(_weight_spec(), words, layers=data)


@cache
def _weight_spec() -> dict[str, Any]:
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
    return built(alt.layer(bars, line, dots), 280)
