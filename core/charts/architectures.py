"""Shapes of models in the plane of speed and loss, with intervals where they were measured; and what proxies rank."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt

from core.charts.chart import Chart, Row, built, fed, si_label
from core.charts.labels import few, plain, si
from core.charts.palette import BLUE, GREEN, GREY, ORANGE, PINK, RED

STAGES = {  # stage -> colour, shape, size
    "on the front": (RED, "diamond", 130),
    "trained": (BLUE, "circle", 90),
    "drawn at random": (PINK, "triangle-up", 100),
    "masked, untrained": (GREY, "circle", 40),
    "whole model": (GREEN, "square", 110),
}
FREE = {"on the front": (RED, "diamond", 90), "beaten": (GREY, "circle", 35), "misses a limit": (ORANGE, "cross", 35)}


class Spot(NamedTuple):
    """A shape. low and high of either figure are its interval; None where there is none."""

    label: str
    stage: str
    x: float
    y: float
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None
    note: str = ""


def trade(spots: Sequence[Spot], engine: str) -> Chart:
    """KL to the whole model over decode speed as a multiple of the whole model's, in one engine."""
    rows = [_row(s, f"{s.x:.2f} ×", f"{s.y:.3g} nat/token") for s in spots]
    trained = sum(s.stage not in ("masked, untrained", "whole model") for s in spots)
    alt_text = f"KL to the whole model over decode speed in {engine}: {trained} trained shapes of {len(rows)} shown"
    return fed(_trade_spec(), alt_text, spots=rows)


def _row(s: Spot, x_text: str, y_text: str) -> Row:
    return {
        "label": s.label,
        "stage": s.stage,
        "x": s.x,
        "y": s.y,
        "x_low": s.x if s.x_low is None else s.x_low,
        "x_high": s.x if s.x_high is None else s.x_high,
        "y_low": s.y if s.y_low is None else s.y_low,
        "y_high": s.y if s.y_high is None else s.y_high,
        "x_text": x_text,
        "y_text": y_text,
        "note": s.note,
    }


@cache
def _trade_spec() -> dict[str, Any]:
    return _plane(
        STAGES,
        {
            "title": ["Decode speed, times the whole model's", "(higher is better)"],
            "scale": alt.Scale(zero=False, nice=False, padding=16),
            "axis": alt.Axis(tickCount=5),
        },
        {
            "title": "KL, nat per token (lower is better)",
            "scale": alt.Scale(type="sqrt", zero=True, padding=16),
            "axis": alt.Axis(tickCount=5),
        },
        ("Speed", "KL"),
    )


def _plane(
    stages: dict[str, tuple[str, str, int]], x: dict[str, Any], y: dict[str, Any], words: tuple[str, str]
) -> dict[str, Any]:
    """Intervals, and over them the points. x, y: title, scale and axis. words: of the figures in the tooltip."""
    base = alt.Chart(alt.NamedData("spots"))
    names = list(stages)
    color = alt.Color(
        "stage:N",
        title=None,
        scale=alt.Scale(domain=names, range=[s[0] for s in stages.values()]),
        legend=alt.Legend(orient="bottom", columns=2, labelFontSize=12),
    )
    across, up = alt.X("x:Q", **x), alt.Y("y:Q", **y)
    upright = base.mark_rule(strokeWidth=1.5).encode(x=across, y=alt.Y("y_low:Q", **y), y2="y_high:Q", color=color)
    flat = base.mark_rule(strokeWidth=1.5).encode(y=up, x=alt.X("x_low:Q", **x), x2="x_high:Q", color=color)
    points = base.mark_point(filled=True, opacity=1).encode(
        x=across,
        y=up,
        color=color,
        shape=alt.Shape("stage:N", title=None, scale=alt.Scale(domain=names, range=[s[1] for s in stages.values()])),
        size=alt.Size("stage:N", legend=None, scale=alt.Scale(domain=names, range=[s[2] for s in stages.values()])),
        tooltip=[
            alt.Tooltip("label:N", title="Shape"),
            alt.Tooltip("stage:N", title="Stage"),
            alt.Tooltip("x_text:N", title=words[0]),
            alt.Tooltip("y_text:N", title=words[1]),
            alt.Tooltip("note:N", title="Note"),
        ],
    )
    return built(upright + flat + points, 440)


def free(spots: Sequence[Spot], device: str) -> Chart:
    """Parameters outside the embedding over generated tokens per second on a device."""
    rows = [_row(s, f"{plain(s.x)} tok/s", si(s.y, "")) for s in spots if s.x > 0 and s.y > 0]
    on = sum(s.stage == "on the front" for s in spots)
    return fed(_free_spec(), f"Parameters over decode speed on {device}: {on} of {len(rows)} shapes", spots=rows)


@cache
def _free_spec() -> dict[str, Any]:
    log = alt.Scale(type="log", nice=False, padding=16)
    speed = alt.Axis(labelExpr=f"{few('125')} ? format(datum.value, '~g') : ''", tickCount=4)
    counted = alt.Axis(labelExpr=f"{few('125', 'y')} ? ({si_label('')}) : ''", tickCount=4)
    return _plane(
        FREE,
        {"title": "Generated tokens per second (higher is better)", "scale": log, "axis": speed},
        {"title": "Parameters without embedding (higher is better)", "scale": log, "axis": counted},
        ("Speed", "Parameters"),
    )


class Tau(NamedTuple):
    """A proxy's agreement with what it should rank. counts: a baseline."""

    label: str
    counts: bool
    tau: float
    low: float | None
    high: float | None
    verdict: str


def taus(rows: Sequence[Tau], what: str) -> Chart:
    """Kendall's tau of every proxy with its interval, and the line of no agreement."""
    data: list[Row] = [
        {
            "label": r.label,
            "kind": "baseline" if r.counts else "proxy",
            "tau": r.tau,
            "low": r.tau if r.low is None else r.low,
            "high": r.tau if r.high is None else r.high,
            "verdict": r.verdict,
        }
        for r in rows
    ]
    return fed(_taus_spec(), f"Kendall's tau of {len(data)} orders with {what}", rows=data)


@cache
def _taus_spec() -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    y = alt.Y("label:N", title=None, sort=None, axis=alt.Axis(labelLimit=260))
    scale = alt.Scale(domain=["proxy", "baseline"], range=[BLUE, GREY])
    color = alt.Color("kind:N", title=None, scale=scale, legend=alt.Legend(orient="bottom", labelFontSize=12))
    shape = alt.Shape("kind:N", title=None, scale=alt.Scale(domain=["proxy", "baseline"], range=["diamond", "circle"]))
    x_scale, x_axis = (
        alt.Scale(domain=[-1, 1]),
        alt.Axis(title=["Kendall's τ", "with the finished models"], tickCount=5),
    )
    bars = base.mark_rule(strokeWidth=2).encode(
        y=y, x=alt.X("low:Q", scale=x_scale, axis=x_axis), x2="high:Q", color=color
    )
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        y=y,
        x=alt.X("tau:Q", scale=x_scale, axis=x_axis),
        color=color,
        shape=shape,
        tooltip=[
            alt.Tooltip("label:N", title="Ranked by"),
            alt.Tooltip("tau:Q", title="τ", format=".2f"),
            alt.Tooltip("verdict:N", title="Verdict"),
        ],
    )
    none = alt.Chart(alt.InlineData(values=[{"x": 0}])).mark_rule(strokeDash=[4, 4], color=GREY).encode(x="x:Q")
    return built(none + bars + points, 260)
