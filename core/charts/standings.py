"""Ways to decode: the speed-up over autoregressive in the same engine, measured with its interval and predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from core.charts.chart import Chart, Row, built, fed
from core.charts.labels import LINES, wrapped
from core.charts.palette import BLUE, GREY, ORANGE

AXIS = 64  # pixels of the axis below the rows


def speedups(rows: Sequence[Any]) -> Chart:
    """Bars in the order of speed-up, a line at 1; a diamond where the cost of a forward predicted it.

    rows: each with a label, over_autoregressive (an interval or None) and predicted (None: not predicted).
    """
    shown = sorted((r for r in rows if r.over_autoregressive is not None), key=lambda r: -r.over_autoregressive.value)
    data: list[Row] = [
        {
            "label": wrapped(r.label),
            "speedup": r.over_autoregressive.value,
            "low": r.over_autoregressive.low if r.over_autoregressive.low is not None else r.over_autoregressive.value,
            "high": r.over_autoregressive.high
            if r.over_autoregressive.high is not None
            else r.over_autoregressive.value,
            "text": f"{r.over_autoregressive.value:.2f} ×",
            "end": max(r.over_autoregressive.high or 0.0, r.over_autoregressive.value, r.predicted or 0.0),
        }
        for r in shown
    ]
    guesses: list[Row] = [{"label": wrapped(r.label), "speedup": r.predicted} for r in shown if r.predicted is not None]
    words = ", ".join(f"{r.label} {d['text']}" for r, d in zip(shown, data, strict=True)) or "nothing measured yet"
    names = [r["label"] for r in data]
    limit = 1.15 * max((r["end"] for r in data), default=1.0)  # room for the words
    return fed(_spec(names, limit), f"Speed-up over autoregressive: {words}", rows=data, guesses=guesses)


def _spec(names: Sequence[str], limit: float) -> dict[str, Any]:
    axis = alt.Axis(labelExpr=LINES, labelLimit=240, ticks=False, domain=False, labelOverlap=False)
    y = alt.Y("label:N", title=None, sort=list(names), axis=axis)
    base = alt.Chart(alt.NamedData("rows"))
    x = alt.X("speedup:Q", title="Speed-up", scale=alt.Scale(domain=[0, limit], nice=False))
    bars = base.mark_bar(color=BLUE, opacity=0.75, height={"band": 0.6}).encode(x=x, y=y)
    spread = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y=y, color=alt.value(GREY))
    words = base.mark_text(align="left", dx=10).encode(x="end:Q", y=y, text="text:N", color=alt.value(GREY))
    guesses = (
        alt.Chart(alt.NamedData("guesses"))
        .mark_point(shape="diamond", filled=True, size=90, color=ORANGE)
        .encode(x=x, y=y, tooltip=[alt.Tooltip("speedup:Q", title="Predicted", format=".2f")])
    )
    one = alt.Chart(alt.Data(values=[{"one": 1}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="one:Q")
    row = max(26, 8 + 13 * max((name.count("\n") + 1 for name in names), default=1))
    return built(alt.layer(bars, spread, words, guesses, one), row * max(1, len(names)) + AXIS)
