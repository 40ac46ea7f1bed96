"""Training curves: one small chart per value, all over the same steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import altair as alt

from core.charts.chart import Chart, built, fed
from core.charts.palette import BLUE, GREEN, ORANGE, PINK, RED, SKY
from core.types import Curve

MOST_POINTS = 400
_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED)


def curve(points: Sequence[Curve], name: str, place: int = 0, height: int = 180) -> Chart:
    """The value `name` over the steps, from the first step to the last one planned. place: which colour it gets."""
    rows = [{"step": c.step, "value": c.values[name]} for c in points if name in c.values]
    total = max((c.total for c in points), default=1)
    last = f"{rows[-1]['value']:.4g} at step {rows[-1]['step']} of {total}" if rows else "no point yet"
    words = f"{name.replace('_', ' ').capitalize()} over the training steps: {last}"
    return fed(
        _spec(_COLOURS[place % len(_COLOURS)], height),
        words,
        points=[*rows[: -1 : max(1, len(rows) // MOST_POINTS)], *rows[-1:]],
        ends=[{"step": 0}, {"step": total}],
    )


@cache
def _spec(colour: str, height: int) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("points"))
    x = alt.X("step:Q", title="Step", axis=alt.Axis(grid=False, tickCount=6, format="~s"), scale=alt.Scale(nice=False))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False, padding=8), axis=alt.Axis(tickCount=4))
    line = base.mark_line(color=colour, strokeWidth=2, interpolate="monotone").encode(x=x, y=y)
    dots = base.mark_point(filled=True, color=colour, size=22).encode(
        x=x,
        y=y,
        tooltip=[alt.Tooltip("step:Q", title="Step"), alt.Tooltip("value:Q", title="Value", format=".4g")],
    )
    room = alt.Chart(alt.NamedData("ends")).mark_point(opacity=0).encode(x=x)
    return built(alt.layer(room, line, dots), height)
