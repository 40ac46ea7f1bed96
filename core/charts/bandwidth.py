"""Read bandwidth over the working set, where the caches end, and where a model stands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import altair as alt

from core.charts.chart import Chart, built, fed, si_label
from core.charts.labels import si
from core.charts.palette import BLUE, GREY, RED


def bandwidth_curve(
    reads: Sequence[tuple[float, float]],
    knees: Sequence[float] = (),
    working_set_bytes: float | None = None,
) -> Chart:
    """Read bandwidth (bytes/s) over the working set (bytes), the caches' ends, and where a model stands."""
    rows = [{"x": x, "y": y, "text": f"{si(x, 'B')}: {si(y, 'B/s')}"} for x, y in sorted(reads)]
    marks = [{"x": k, "text": f"cache ends near {si(k, 'B')}", "what": "knee"} for k in knees]
    if working_set_bytes:
        marks.append(
            {"x": working_set_bytes, "text": f"this model reads {si(working_set_bytes, 'B')}", "what": "model"}
        )
    fast, slow = (f(reads, key=lambda r: r[1], default=(0.0, 0.0)) for f in (max, min))
    words = (
        f"Read bandwidth over working set, {len(knees)} cache ends found: {si(fast[1], 'B/s')} at {si(fast[0], 'B')}, "
        f"{si(slow[1], 'B/s')} at {si(slow[0], 'B')}"
        if rows
        else "Read bandwidth, not measured"
    )
    return fed(_bandwidth_spec(), words, reads=rows, marks=marks)


@cache
def _bandwidth_spec() -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("reads"))
    x = alt.X(
        "x:Q",
        title="Working set",
        scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(labelExpr=si_label("B"), grid=False, tickCount=8, labelOverlap="greedy"),
    )
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(labelExpr=si_label("B/s"), tickCount=4))
    line = base.mark_line(color=BLUE, strokeWidth=2).encode(x=x, y=y)
    points = base.mark_point(filled=True, color=BLUE, size=36).encode(
        x=x, y=y, tooltip=[alt.Tooltip("text:N", title="Measured")]
    )
    marks = alt.Chart(alt.NamedData("marks"))
    rules = marks.mark_rule(strokeWidth=1.4).encode(
        x=alt.X("x:Q"),
        color=alt.condition("datum.what == 'model'", alt.value(RED), alt.value(GREY)),
        strokeDash=alt.condition("datum.what == 'model'", alt.value([1, 0]), alt.value([4, 4])),
        tooltip=[alt.Tooltip("text:N", title="Here")],
    )
    words = marks.mark_text(align="left", baseline="top", dx=5, dy=2, fontSize=11, angle=0).encode(
        x=alt.X("x:Q"),
        y=alt.value(0),
        text="text:N",
        color=alt.condition("datum.what == 'model'", alt.value(RED), alt.value(GREY)),
    )
    return built(alt.layer(rules, line, points, words), 240)
