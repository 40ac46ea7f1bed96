"""Many configurations side by side: what was measured, with its interval, beside what was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt

from core.charts.chart import Chart, Row, built, fed, listed, si_label
from core.charts.labels import LINES, few, si, wrapped
from core.charts.palette import BLUE, GREY, ORANGE

PLAIN = ("tok/s", "")
_LINE = 14  # pixels of a line of a label


class Bar(NamedTuple):
    """One configuration under one measure; low and high: its 95 % interval, or the same value."""

    label: str
    value: float
    low: float
    high: float
    predicted_low: float | None = None
    predicted_high: float | None = None
    note: str = ""


def side_by_side(bars: Sequence[Bar], title: str, unit: str) -> Chart:
    """A dot with its interval for each, over a pale bar for the predicted range, on a logarithmic axis."""

    def words(value: float) -> str:
        return f"{value:,.3g}" if unit in PLAIN and value < 1000 else si(value, unit)

    data: list[Row] = [
        {
            "label": wrapped(b.label),
            "value": b.value,
            "low": b.low,
            "high": b.high,
            "p_low": b.predicted_low,
            "p_high": b.predicted_high,
            "text": words(b.value),
            "range": f"{words(b.low)} to {words(b.high)}" if b.low < b.high else "",
            "predicted": ""
            if b.predicted_low is None or b.predicted_high is None
            else f"{words(b.predicted_low)} to {words(b.predicted_high)}",
            "note": b.note,
        }
        for b in bars
    ]
    told = any(b.predicted_low is not None for b in bars)
    about = " beside the predicted range" if told else ""
    said = [f"{b.label} {words(b.value)}" for b in bars]
    several = "1 configuration" if len(bars) == 1 else f"{len(bars)} configurations"
    tall = max((row["label"].count("\n") for row in data), default=0) + 1
    return fed(_spec(title, unit, told, tall), listed(f"{title} of {several}{about}", said), rows=data)


@cache
def _spec(title: str, unit: str, told: bool, tall: int) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    y = alt.Y(
        "label:N",
        title=None,
        sort=None,
        axis=alt.Axis(
            labelExpr=LINES,
            labelLimit=240,
            labelOffset=-_LINE * (tall - 1) / 2,  # else the first line stands at the dot
            ticks=False,
            domain=False,
            labelPadding=8,
            labelOverlap=False,
            labelFontSize=12,
        ),
    )
    scale = alt.Scale(type="log", nice=False, padding=48)
    shown = few("13")  # fits a phone
    lines: Any = {"condition": {"test": shown, "value": 0.4}, "value": 0}
    label = "format(datum.value, '~s')" if unit in PLAIN else si_label(unit)
    axis = alt.Axis(
        labelExpr=f"{shown} ? {label} : ''", tickCount=5, labelSeparation=10, ticks=False, gridOpacity=lines
    )
    tips = [
        alt.Tooltip("label:N", title="Configuration"),
        alt.Tooltip("text:N", title=title),
        alt.Tooltip("range:N", title="95 % interval"),
        alt.Tooltip("predicted:N", title="Predicted"),
        alt.Tooltip("note:N", title="Note"),
    ]
    foretold = (
        base.transform_filter("datum.p_low !== null")
        .mark_bar(height=13, opacity=0.3, color=ORANGE, cornerRadius=4)
        .encode(y=y, x=alt.X("p_low:Q", title=title, scale=scale, axis=axis), x2="p_high:Q", tooltip=tips)
    )
    wide = base.mark_rule(strokeWidth=2, color=BLUE).encode(
        y=y, x=alt.X("low:Q", title=title, scale=scale, axis=axis), x2="high:Q", tooltip=tips
    )
    dots = base.mark_point(filled=True, size=80, opacity=1, color=BLUE).encode(y=y, x=alt.X("value:Q"), tooltip=tips)
    words = base.mark_text(align="left", dx=9, dy=-9, fontSize=11, color=GREY).encode(
        y=y, x=alt.X("value:Q"), text="text:N"
    )
    layers = [*([foretold] if told else []), wide, dots, words]
    return {
        **built(alt.layer(*layers).properties(height=alt.Step(max(32, 18 + _LINE * tall))), None),
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
