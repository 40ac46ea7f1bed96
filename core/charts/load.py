"""A model server under load: latency and throughput over the load, and the requests of one level over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt

from core.charts.chart import Chart, Row, built, fed, si_label
from core.charts.labels import si
from core.charts.palette import BLUE, DASHES, GREEN, GREY, ORANGE, PINK, RED, SKY

SHARES = ("p50", "p90", "p95", "p99")
_COLOURS = dict(zip(SHARES, (BLUE, SKY, ORANGE, RED), strict=True))
HOW = {"good": BLUE, "bad": ORANGE, "failed": RED, "undetermined": PINK, "ended by us": GREY}
HOW_SHAPES = ("circle", "diamond", "cross", "square", "triangle-down")
RATES = {"asked for": GREY, "completed": BLUE, "good": GREEN}


class Quantile(NamedTuple):
    """A latency at one load. low, high: its interval, None without one. off: what is wrong with the point."""

    load: float
    share: str
    seconds: float
    low: float | None
    high: float | None
    n: int
    off: str = ""


class Rate(NamedTuple):
    """Requests per second at one load. what: one of RATES."""

    load: float
    what: str
    per_s: float
    off: str = ""


def latency_over_load(points: Sequence[Quantile], title: str, unit: str, limit_s: float | None = None) -> Chart:
    """A latency's quantiles over the load with their intervals; the objective as a line. unit: of the load."""
    rows: list[Row] = [
        {
            "load": p.load,
            "share": p.share,
            "s": p.seconds,
            "low": p.low if p.low is not None else p.seconds,
            "high": p.high if p.high is not None else p.seconds,
            "text": si(p.seconds, "s") + _range(p),
            "n": p.n,
            "off": p.off or "nothing",
            "mark": "off" if p.off else "sound",
        }
        for p in points
    ]
    highest = max(points, key=lambda p: (p.load, p.share), default=None)
    told = f": {highest.share} {si(highest.seconds, 's')} at {highest.load:g}" if highest else ", nothing measured yet"
    words = f"{title} over {unit}{told}"
    limits = [{"s": limit_s, "text": f"objective {si(limit_s, 's')}"}] if limit_s is not None else []
    there = tuple(share for share in SHARES if any(p.share == share for p in points)) or SHARES[:1]
    return fed(_latency_spec(title, unit, there), words, rows=rows, limits=limits)


def _range(p: Quantile) -> str:
    low, high = (None if x is None else si(x, "s") for x in (p.low, p.high))
    if low and high:
        return f" [{low}, {high}]"
    return f", at most {high}" if high else ""


@cache
def _latency_spec(title: str, unit: str, shares: tuple[str, ...]) -> dict[str, Any]:
    x = _load_axis(unit)
    y = alt.Y("s:Q", title=title, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(labelExpr=si_label("s")))
    colour = alt.Color(
        "share:N",
        title=None,
        scale=alt.Scale(domain=list(shares), range=[_COLOURS[share] for share in shares]),
        legend=_legend("stroke"),
    )
    dashes = [DASHES[SHARES.index(share)] for share in shares]
    dash = alt.StrokeDash("share:N", scale=alt.Scale(domain=list(shares), range=dashes), legend=None)
    base = alt.Chart(alt.NamedData("rows"))
    tips = [
        alt.Tooltip("load:Q", title=unit.capitalize()),
        alt.Tooltip("share:N", title="Quantile"),
        alt.Tooltip("text:N", title="Latency [95 % interval]"),
        alt.Tooltip("n:Q", title="Requests"),
        alt.Tooltip("off:N", title="Off"),
    ]
    line = base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash)
    spread = base.mark_rule(strokeWidth=1.4).encode(x="load:Q", y="low:Q", y2="high:Q", color=colour)
    dots = base.mark_point(size=70, strokeWidth=2).encode(
        x="load:Q",
        y="s:Q",
        color=colour,
        fill=alt.condition("datum.mark == 'off'", alt.value("transparent"), colour),
        shape=alt.condition("datum.mark == 'off'", alt.value("triangle-up"), alt.value("circle")),
        tooltip=tips,
    )
    limits = alt.Chart(alt.NamedData("limits"))
    rule = limits.mark_rule(color=GREEN, strokeDash=DASHES[1], strokeWidth=1.6).encode(y="s:Q")
    label = limits.mark_text(align="right", baseline="bottom", dx=-4, dy=-3, color=GREEN, fontSize=11).encode(
        x=alt.value("width"), y="s:Q", text="text:N"
    )
    return built(alt.layer(rule, spread, line, dots, label), 300)


def goodput_over_load(rates: Sequence[Rate], unit: str) -> Chart:
    """Requests per second over the load: asked for (open loop), completed, and good ones."""
    rows: list[Row] = [
        {"load": r.load, "what": r.what, "per_s": r.per_s, "off": r.off or "nothing", "mark": "off" if r.off else ""}
        for r in rates
    ]
    done = [r for r in rates if r.what == "completed"]
    best = max(done, key=lambda r: r.per_s, default=None)
    words = f"Requests per second over {unit}"
    words += f": at most {best.per_s:.3g} completed, at {best.load:g}" if best else ", nothing measured yet"
    names = tuple(what for what in RATES if any(r.what == what for r in rates)) or ("completed",)
    return fed(_goodput_spec(unit, names), words, rows=rows)


@cache
def _goodput_spec(unit: str, names: tuple[str, ...]) -> dict[str, Any]:
    colour = alt.Color(
        "what:N",
        title=None,
        scale=alt.Scale(domain=list(names), range=[RATES[n] for n in names]),
        legend=_legend("stroke"),
    )
    dashes = {"asked for": DASHES[2], "completed": DASHES[0], "good": DASHES[1]}
    dash = alt.StrokeDash("what:N", scale=alt.Scale(domain=list(names), range=[dashes[n] for n in names]), legend=None)
    base = alt.Chart(alt.NamedData("rows"))
    y = alt.Y("per_s:Q", title="Requests per second", scale=alt.Scale(zero=True, nice=True))
    line = base.mark_line(strokeWidth=2).encode(x=_load_axis(unit), y=y, color=colour, strokeDash=dash)
    dots = base.mark_point(size=70, strokeWidth=2).encode(
        x="load:Q",
        y="per_s:Q",
        color=colour,
        fill=alt.condition("datum.mark == 'off'", alt.value("transparent"), colour),
        shape=alt.condition("datum.mark == 'off'", alt.value("triangle-up"), alt.value("circle")),
        tooltip=[
            alt.Tooltip("load:Q", title=unit.capitalize()),
            alt.Tooltip("what:N", title="Requests"),
            alt.Tooltip("per_s:Q", title="Per second", format=".3g"),
            alt.Tooltip("off:N", title="Off"),
        ],
    )
    return built(alt.layer(line, dots), 300)


def request_timeline(dots: Iterable[Row], open_s: float | None, close_s: float | None) -> Chart:
    """Each request of a level: when it was asked and how long it took; the window that counts is shaded.

    dots: at_s, took_s, ttft_s, how (one of HOW) and reason.
    """
    rows = [{**d, "text": si(d["took_s"], "s"), "first": si(d["ttft_s"], "s")} for d in dots]
    window = [] if open_s is None else [{"low": open_s, "high": close_s if close_s is not None else open_s}]
    n_failed = sum(d["how"] == "failed" for d in rows)
    words = f"{len(rows)} requests of a level over time, {n_failed} of them failed" if rows else "Requests, none yet"
    there = tuple(how for how in HOW if any(d["how"] == how for d in rows)) or ("good",)
    return fed(_timeline_spec(there), words, rows=rows, window=window)


@cache
def _timeline_spec(names: tuple[str, ...]) -> dict[str, Any]:
    x = alt.X(
        "at_s:Q",
        title="Seconds since the level began",
        scale=alt.Scale(nice=False, zero=True),
        axis=alt.Axis(grid=False, format="~s"),
    )
    y = alt.Y("took_s:Q", title="Until its end", scale=alt.Scale(zero=True), axis=alt.Axis(labelExpr=si_label("s")))
    shapes = dict(zip(HOW, HOW_SHAPES, strict=True))
    dots = (
        alt.Chart(alt.NamedData("rows"))
        .mark_point(filled=True, size=36, opacity=0.85)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "how:N",
                title=None,
                scale=alt.Scale(domain=list(names), range=[HOW[n] for n in names]),
                legend=_legend(),
            ),
            shape=alt.Shape("how:N", title=None, scale=alt.Scale(domain=list(names), range=[shapes[n] for n in names])),
            tooltip=[
                alt.Tooltip("at_s:Q", title="Asked after (s)", format=".2f"),
                alt.Tooltip("text:N", title="Took"),
                alt.Tooltip("first:N", title="First token after"),
                alt.Tooltip("how:N", title="Verdict"),
                alt.Tooltip("reason:N", title="Reason"),
            ],
        )
    )
    window = (
        alt.Chart(alt.NamedData("window"))
        .mark_rect(color=GREEN, opacity=0.08)
        .encode(x="low:Q", x2="high:Q", tooltip=[alt.Tooltip("low:Q", title="The window opens (s)", format=".1f")])
    )
    return built(alt.layer(window, dots), 240)


def _legend(symbol: str | None = None) -> alt.Legend:
    more = {"symbolType": symbol, "symbolStrokeWidth": 3, "symbolSize": 80} if symbol else {}
    return alt.Legend(orient="top", columnPadding=8, labelFontSize=11, **more)


def _load_axis(unit: str) -> alt.X:
    axis = alt.Axis(grid=False, format="~g", tickCount=8, tickMinStep=1 if unit == "users" else 0.01)
    return alt.X("load:Q", title=unit.capitalize(), scale=alt.Scale(zero=True, nice=True), axis=axis)
