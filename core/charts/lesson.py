"""Small charts for lessons: bars with one marked, lines with a place marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt

from core.charts.chart import Chart, Row, built, fed, si_label
from core.charts.labels import columns, si
from core.charts.palette import BLUE, DASHES, GREY, ORANGE, SERIES

_ROW, _AXIS = 34, 60  # pixels
_PLAIN = ("×", "tok/s", "")  # units that take no SI prefix


class Bar(NamedTuple):
    """One bar. marked: the one that is spoken of."""

    label: str
    value: float
    text: str
    marked: bool = False


def bars(rows: Sequence[Bar], title: str, unit: str = "") -> Chart:
    """Bars in the order given; the marked one is said by its colour and by an arrow before its text."""
    data: list[Row] = [
        {"label": r.label, "value": r.value, "text": f"{'◀ ' if r.marked else ''}{r.text}",
         "marked": "chosen" if r.marked else "others"}
        for r in rows
    ]  # fmt: skip
    words = ", ".join(f"{r.label} {r.text}" for r in rows)
    room = [{"value": 1.35 * max((r.value for r in rows), default=1.0)}]  # for the words behind the longest
    return fed(_bars_spec(unit, len(rows), title), f"{title}: {words}", rows=data, room=room)


@cache
def _bars_spec(unit: str, n: int, title: str) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    y = alt.Y(
        "label:N", title=None, sort=None, axis=alt.Axis(ticks=False, domain=False, labelLimit=220, labelFontSize=12)
    )
    axis = alt.Axis(labelExpr=si_label(unit), tickCount=5, labelOverlap="greedy") if unit else alt.Axis(tickCount=5)
    x = alt.X("value:Q", title=title, axis=axis, scale=alt.Scale(domainMin=0, nice=False))
    scale = alt.Scale(domain=["chosen", "others"], range=[ORANGE, BLUE])
    colour = alt.Color("marked:N", scale=scale, legend=None)
    drawn = base.mark_bar(cornerRadiusEnd=3, height={"band": 0.65}).encode(x=x, y=y, color=colour)
    words = base.mark_text(align="left", dx=6, color=GREY, fontSize=12).encode(x=x, y=y, text="text:N")
    room = alt.Chart(alt.NamedData("room")).mark_point(opacity=0).encode(x=alt.X("value:Q"))
    return built(alt.layer(room, drawn, words), _AXIS + _ROW * max(1, n))


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_title: str,
    y_title: str,
    now: float | None = None,
    level: tuple[str, float] | None = None,
    log: bool = True,
    unit: str = "",
    height: int = 380,
) -> Chart:
    """Lines over one quantity; now: the place that is spoken of; level: a named horizontal line."""
    rows: list[Row] = [
        {"name": name, "x": x, "y": y, "text": _words(y, unit)} for name, points in series.items() for x, y in points
    ]
    here = [] if now is None else [r for r in rows if r["x"] == now]
    told = ", ".join(f"{r['name']} {r['text']}" for r in here)
    words = f"{y_title} over {x_title.lower()}" + (f"; at {now:g}: {told}" if told else "")
    if level is not None:
        words += f"; {level[0]} at {_words(level[1], unit)}"
    return fed(
        _lines_spec(x_title, y_title, log, unit, height, tuple(series)),
        words,
        rows=rows,
        here=here,
        now=[] if now is None else [{"x": now}],
        level=[] if level is None else [{"y": level[1], "text": level[0]}],
    )


def _words(value: float, unit: str) -> str:
    if unit not in _PLAIN:
        return si(value, unit)
    number = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{number} {unit}".strip()


@cache
def _lines_spec(
    x_title: str, y_title: str, log: bool, unit: str, height: int, names: tuple[str, ...]
) -> dict[str, Any]:
    scale = alt.Scale(type="log", base=2, nice=False) if log else alt.Scale(zero=False, nice=False)
    x = alt.X(
        "x:Q", title=x_title, scale=scale, axis=alt.Axis(format=",", tickCount=8, grid=False, labelOverlap="greedy")
    )
    y_scale = alt.Scale(type="log", nice=False, padding=12) if log else alt.Scale(zero=True, nice=True)
    words: dict[str, Any] = {"format": ",~g"} if unit in _PLAIN else {"labelExpr": si_label(unit)}
    y_axis = alt.Axis(tickCount=4, labelOverlap="greedy", gridOpacity=0.4, **words)
    y = alt.Y("y:Q", title=y_title, scale=y_scale, axis=y_axis)
    colour = alt.Color(
        "name:N",
        title=None,
        scale=alt.Scale(domain=list(names), range=list(SERIES[: len(names)])),
        legend=alt.Legend(orient="bottom", labelLimit=320, columns=columns(250)),
    )
    dashes = [DASHES[i % len(DASHES)] for i in range(len(names))]
    dash = alt.StrokeDash(
        "name:N",
        title=None,
        scale=alt.Scale(domain=list(names), range=dashes),
        legend=alt.Legend(orient="bottom", labelLimit=320, columns=columns(250)),
    )
    drawn = alt.Chart(alt.NamedData("rows")).mark_line(strokeWidth=2.4).encode(x=x, y=y, color=colour, strokeDash=dash)
    here = alt.Chart(alt.NamedData("here"))
    dots = here.mark_point(filled=True, size=110, opacity=1).encode(
        x=x, y=y, color=colour, tooltip=["name:N", "text:N"]
    )
    first = alt.datum.name == names[0]  # its words stand above its point, those of the others below theirs
    told = [
        here.transform_filter(which)
        .mark_text(dy=dy, dx=10, align="left", fontSize=12, fontWeight="bold", color=GREY)
        .encode(x=x, y=y, text="text:N")
        for which, dy in ((first, -12), (~first, 14))
    ]
    now = alt.Chart(alt.NamedData("now")).mark_rule(color=GREY, strokeDash=[2, 3]).encode(x="x:Q")
    level = alt.Chart(alt.NamedData("level"))
    flat = level.mark_rule(color=ORANGE, strokeDash=[6, 4], strokeWidth=1.6).encode(y="y:Q")
    name = level.mark_text(align="right", dy=-7, color=ORANGE, fontSize=12).encode(
        x=alt.value("width"), y="y:Q", text="text:N"
    )
    return built(alt.layer(now, flat, name, drawn, dots, *told), height)
