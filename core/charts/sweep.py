"""What a sweep found: a heat map over two axes, small multiples over three, and how the reference cell drifted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import altair as alt

from core.charts.chart import Chart, Row, built, fed, listed, si_label
from core.charts.labels import si
from core.charts.palette import BLUE, DASHES, GREY, SEQUENTIAL, SERIES

PLAIN = ("tok/s", "")  # units that take no SI prefix
TILE = 44  # pixels of a row of tiles
DISTURBED = "disturbed"  # the note of a tile whose figure is not the machine's own: it has a ~
PANEL = 220  # pixels of a panel of small multiples


class Tile(NamedTuple):
    """The best of the cells at one place. label: that cell; n: how many there are. value None: none is measured."""

    x: str
    y: str
    value: float | None
    low: float | None = None
    high: float | None = None
    panel: str = ""
    label: str = ""
    n: int = 1
    note: str = ""


def heat(tiles: Sequence[Tile], x: str, y: str, title: str, unit: str, better: Literal["higher", "lower"]) -> Chart:
    """One tile per pair of values, with its number; the better the brighter. A dash stands where nothing is known."""
    data = [_row(t, unit) for t in tiles]
    xs, ys = tuple(dict.fromkeys(t.x for t in tiles)), tuple(dict.fromkeys(t.y for t in tiles))
    known = [t.value for t in tiles if t.value is not None]
    middle = (min(known) + max(known)) / 2 if known else 0.0
    for row in data:
        bright = row["value"] is not None and ((row["value"] > middle) == (better == "higher"))
        row["ink"] = "#1b1b1b" if bright else GREY if row["value"] is None else "#ffffff"
    words = f"{title} over {x}{f' and {y}' if y else ''}: {len(xs)} by {len(ys)} tiles, {len(known)} of them measured"
    best = [t for t in tiles if t.value is not None and t.value == (max if better == "higher" else min)(known)][:1]
    words = listed(words, [f"the best is {_words(t.value, unit)} at {t.x}{f' and {t.y}' if y else ''}" for t in best])
    return fed(_heat_spec(x, y, xs, ys, title, unit, better), words, tiles=data)


def multiples(tiles: Sequence[Tile], x: str, line: str, panel: str, title: str, unit: str) -> Chart:
    """A panel per value of one axis, in it a line per value of another over a third; bars are 95 % intervals."""
    data = [_row(t, unit) for t in tiles if t.value is not None]
    xs = tuple(dict.fromkeys(t.x for t in tiles))
    lines = tuple(dict.fromkeys(t.y for t in tiles))
    panels = tuple(dict.fromkeys(t.panel for t in tiles))
    words = f"{title} over {x}, {len(lines)} lines by {line or 'nothing'} in {len(panels)} panels"
    known = [row["value"] for row in data]
    words += f", from {_words(min(known), unit)} to {_words(max(known), unit)}" if known else ""
    return fed(_multiples_spec(x, line, panel, xs, lines, panels, title, unit), words, tiles=data)


def drift(samples: Sequence[tuple[float, float, bool]]) -> Chart:
    """The reference cell over the sweep: minutes since it began, time over the median, whether it was disturbed."""
    first = samples[0][0] if samples else 0.0
    data: list[Row] = [
        {"minute": (when - first) / 60, "ratio": ratio, "state": "disturbed" if bad else "quiet"}
        for when, ratio, bad in samples
    ]
    return fed(_drift_spec(), f"{len(data)} measurements of the reference cell over its median", samples=data)


def _row(t: Tile, unit: str) -> Row:
    return {
        "x": t.x,
        "y": t.y,
        "panel": t.panel,
        "value": t.value,
        "low": t.value if t.low is None else t.low,
        "high": t.value if t.high is None else t.high,
        "text": f"{'~ ' if t.note == DISTURBED else ''}{_words(t.value, unit)}",
        "range": "" if t.low is None or t.high is None else f"{_words(t.low, unit)} to {_words(t.high, unit)}",
        "cell": t.label,
        "note": t.note or (f"the best of {t.n} cells" if t.n > 1 else ""),
    }


def _words(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit in PLAIN:
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return si(value, unit)


def _tips(title: str, x: str, y: str) -> list[Any]:
    return [
        alt.Tooltip("text:N", title=title),
        alt.Tooltip("range:N", title="95 % interval"),
        alt.Tooltip("x:N", title=x),
        *([alt.Tooltip("y:N", title=y)] if y else []),
        alt.Tooltip("cell:N", title="Cell"),
        alt.Tooltip("note:N", title="Note"),
    ]


@cache
def _heat_spec(
    x: str, y: str, xs: tuple[str, ...], ys: tuple[str, ...], title: str, unit: str, better: str
) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("tiles"))
    axis: dict[str, Any] = {"labelFontSize": 12, "labelLimit": 180, "ticks": False, "domain": False}
    across = alt.X("x:N", title=x, sort=list(xs), axis=alt.Axis(labelAngle=0, labelOverlap="greedy", **axis))
    down = alt.Y("y:N", title=y or None, sort=list(ys), axis=alt.Axis(**axis))
    shades = list(SEQUENTIAL if better == "higher" else SEQUENTIAL[::-1])
    colour = alt.Color(
        "value:Q",
        title=title,
        scale=alt.Scale(range=shades),
        legend=alt.Legend(
            orient="bottom",
            gradientLength=180,
            titleOrient="left",
            labelExpr="format(datum.value, '.3~s')" if unit in PLAIN else si_label(unit),
        ),
    )
    known = "datum.value !== null"
    tiles = base.mark_rect(cornerRadius=3, stroke=GREY, strokeWidth=0.5).encode(
        x=across, y=down, color=alt.condition(known, colour, alt.value("transparent")), tooltip=_tips(title, x, y)
    )
    words = base.mark_text(fontSize=12).encode(
        x=across, y=down, text="text:N", color=alt.Color("ink:N", scale=None, legend=None)
    )
    layered = alt.layer(tiles, words).resolve_scale(color="independent").properties(height=alt.Step(TILE))
    return {**built(layered, None), "autosize": {"type": "fit-x", "contains": "padding"}}


@cache
def _multiples_spec(
    x: str,
    line: str,
    panel: str,
    xs: tuple[str, ...],
    lines: tuple[str, ...],
    panels: tuple[str, ...],
    title: str,
    unit: str,
) -> dict[str, Any]:
    base = alt.Chart()
    across = alt.X("x:N", title=x, sort=list(xs), axis=alt.Axis(labelAngle=0, labelOverlap="greedy", labelLimit=120))
    label = "format(datum.value, ',')" if unit in PLAIN else si_label(unit)
    up = alt.Y("value:Q", title=title, axis=alt.Axis(labelExpr=label, gridOpacity=0.4, tickCount=5))
    encodings: dict[str, Any] = {}
    if line:
        colours = [SERIES[i % len(SERIES)] for i in range(len(lines))]
        dashes = [DASHES[i % len(DASHES)] for i in range(len(lines))]
        legend = alt.Legend(orient="bottom", labelLimit=200, labelFontSize=12)
        encodings = {
            "color": alt.Color("y:N", title=line, scale=alt.Scale(domain=list(lines), range=colours), legend=legend),
            "strokeDash": alt.StrokeDash("y:N", title=line, scale=alt.Scale(domain=list(lines), range=dashes)),
        }
    fixed: dict[str, Any] = {} if line else {"color": BLUE}
    strokes = base.mark_line(point={"filled": True, "size": 50}, **fixed).encode(
        x=across, y=up, tooltip=_tips(title, x, line), **encodings
    )
    bars = base.mark_rule(opacity=0.6, **fixed).encode(
        x=across, y=alt.Y("low:Q", title=title), y2="high:Q", **{k: v for k, v in encodings.items() if k == "color"}
    )
    layered = alt.layer(strokes, bars)
    if not panel:
        named = layered.properties(data=alt.NamedData("tiles"))
        return built(named, 280)
    columns = min(3, len(panels))
    found = layered.properties(width=PANEL, height=180).facet(
        facet=alt.Facet("panel:N", title=panel, sort=list(panels), header=alt.Header(labelLimit=200)),
        columns=columns,
        data=alt.NamedData("tiles"),
    )
    spec: dict[str, Any] = found.to_dict()
    return spec


@cache
def _drift_spec() -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("samples"))
    across = alt.X("minute:Q", title="Minutes since the first cell", axis=alt.Axis(gridOpacity=0.4))
    up = alt.Y(
        "ratio:Q", title="Over the median", scale=alt.Scale(zero=False, padding=12), axis=alt.Axis(gridOpacity=0.4)
    )
    tips = [
        alt.Tooltip("minute:Q", title="Minute", format=".1f"),
        alt.Tooltip("ratio:Q", title="Over the median", format=".3f"),
        alt.Tooltip("state:N", title="The machine was"),
    ]
    line = base.mark_line(color=GREY, strokeWidth=1.5).encode(x=across, y=up)
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=across,
        y=up,
        shape=alt.Shape(
            "state:N",
            title=None,
            scale=alt.Scale(domain=["quiet", "disturbed"], range=["circle", "triangle-up"]),
            legend=alt.Legend(orient="bottom"),
        ),
        color=alt.Color("state:N", title=None, scale=alt.Scale(domain=["quiet", "disturbed"], range=[BLUE, SERIES[5]])),
        tooltip=tips,
    )
    one = alt.Chart(alt.Data(values=[{"ratio": 1.0}])).mark_rule(strokeDash=[4, 4], color=GREY).encode(y="ratio:Q")
    return built(alt.layer(one, line, dots), 240)
