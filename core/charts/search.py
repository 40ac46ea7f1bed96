"""What a search saw: the cells in the plane of two goals, those that were measured apart from those predicted only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt

from core.charts.chart import Chart, Row, built, fed, si_label
from core.charts.labels import few, si
from core.charts.palette import BLUE, GREY, ORANGE, PINK, RED, SKY

STAGES = {  # stage -> colour, shape, opacity
    "finalist": (RED, "diamond", 1.0),
    "measured": (BLUE, "circle", 1.0),
    "audited": (PINK, "triangle-up", 1.0),
    "predicted only": (GREY, "circle", 0.35),
    "dropped": (ORANGE, "cross", 0.35),
    "final": (SKY, "square", 1.0),
}
PLAIN = ("tok/s", "")


class Spot(NamedTuple):
    """A cell in the plane of two goals. stage: one of STAGES; "final" is a finalist as it was measured anew."""

    label: str
    stage: str
    x: float
    y: float
    note: str = ""


def plane(spots: Sequence[Spot], x: tuple[str, str, str], y: tuple[str, str, str]) -> Chart:
    """x, y: title, unit and which way is better ("higher", "lower")."""

    def words(value: float, unit: str) -> str:
        return f"{value:,.3g} {unit}".strip() if unit in PLAIN and value < 1000 else si(value, unit)

    rows: list[Row] = [
        {
            "label": s.label,
            "stage": s.stage,
            "x": s.x,
            "y": s.y,
            "x_text": words(s.x, x[1]),
            "y_text": words(s.y, y[1]),
            "note": s.note,
        }
        for s in spots
        if s.x > 0 and s.y > 0
    ]
    told = sum(s.stage not in ("predicted only", "dropped") for s in spots)
    return fed(_plane_spec(x, y), f"{y[0]} over {x[0]} of {len(rows)} cells, {told} points measured", spots=rows)


@cache
def _plane_spec(x: tuple[str, str, str], y: tuple[str, str, str]) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("spots"))

    def axis(unit: str, channel: str) -> alt.Axis:
        label = "format(datum.value, '~g')" if unit in PLAIN else f"({si_label(unit)})"
        return alt.Axis(labelExpr=f"{few('15', channel)} ? {label} : ''", tickCount=4, gridOpacity=0.4)

    def titled(of: tuple[str, str, str]) -> str:
        return f"{of[0]} ({of[2]} is better)"

    names = list(STAGES)
    scale = alt.Scale(type="log", nice=False, padding=16)
    legend = alt.Legend(orient="bottom", columns=3, labelFontSize=12)
    points = base.mark_point(filled=True, size=75).encode(
        x=alt.X("x:Q", title=titled(x), scale=scale, axis=axis(x[1], "x")),
        y=alt.Y("y:Q", title=titled(y), scale=scale, axis=axis(y[1], "y")),
        color=alt.Color(
            "stage:N", title=None, scale=alt.Scale(domain=names, range=[s[0] for s in STAGES.values()]), legend=legend
        ),
        shape=alt.Shape("stage:N", title=None, scale=alt.Scale(domain=names, range=[s[1] for s in STAGES.values()])),
        opacity=alt.Opacity(
            "stage:N", title=None, scale=alt.Scale(domain=names, range=[s[2] for s in STAGES.values()]), legend=None
        ),
        tooltip=[
            alt.Tooltip("label:N", title="Cell"),
            alt.Tooltip("stage:N", title="Stage"),
            alt.Tooltip("x_text:N", title=x[0]),
            alt.Tooltip("y_text:N", title=y[0]),
            alt.Tooltip("note:N", title="Note"),
        ],
    )
    return built(points, 380)
