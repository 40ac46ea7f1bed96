"""What a forward pass of several tokens costs, and what guessing would bring."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt

from core.analysis.decoding import Prospect
from core.charts.chart import Chart, Row, built, fed
from core.charts.labels import LINE_OR_LINES, wrapped
from core.charts.palette import BLUE, DASHES, GREEN, GREY, ORANGE, SERIES
from core.types import ForwardCost


class CostCurve(NamedTuple):
    """One measured v(n), and what the roof allows for the same sizes, relative to the roof's own forward of one."""

    name: str
    cost: ForwardCost
    roof: tuple[tuple[int, float], ...] = ()


def forward_cost(curves: Sequence[CostCurve]) -> Chart:
    """v(n) over n: measured with its quartiles, the roof's dashed. Below the diagonal a forward of n is cheaper
    than n forwards of one."""
    rows: list[Row] = []
    roofs: list[Row] = []
    for curve in curves:
        one = next((t.seconds for t in curve.cost.times if t.n == 1), None)
        if one is None:
            continue
        for t in curve.cost.times:
            rows.append(
                {
                    "name": wrapped(curve.name),
                    "n": t.n,
                    "v": t.seconds / one,
                    "low": t.low_s / one,
                    "high": t.high_s / one,
                    "text": f"{t.seconds * 1e3:.2f} ms, v = {t.seconds / one:.2f}",
                }
            )
        roofs += [{"name": wrapped(curve.name), "n": n, "v": v} for n, v in curve.roof]
    sizes = sorted({r["n"] for r in rows})
    words = ", ".join(f"{c.name}: v(16) about {_at(c.cost, 16)}" for c in curves) or "nothing measured yet"
    return fed(
        _cost_spec(300 + 15 * sum(2 + wrapped(c.name).count("\n") for c in curves)),  # the legend has its rows
        f"Cost of a forward of n tokens over that of one. {words}",
        rows=rows,
        roofs=roofs,
        diagonal=[{"n": n, "v": n} for n in sizes],
        names=[{"name": wrapped(c.name)} for c in curves],
    )


def _at(cost: ForwardCost, n: int) -> str:
    seconds = {t.n: t.seconds for t in cost.times}
    return f"{seconds[n] / seconds[1]:.2f}" if n in seconds and 1 in seconds else "not measured"


@cache
def _cost_spec(height: int) -> dict[str, Any]:
    scale = alt.Scale(type="log", base=2, nice=False)
    x = alt.X(
        "n:Q",
        title="Tokens in one forward pass",
        scale=scale,
        axis=alt.Axis(grid=False, values=[1, 2, 4, 8, 16, 32, 64]),
    )
    y = alt.Y("v:Q", title="Cost, in forward passes of one token", scale=scale, axis=alt.Axis(format="~g", tickCount=6))
    legend = alt.Legend(orient="top", columns=1, labelLimit=700, labelExpr=LINE_OR_LINES)
    colour = alt.Color("name:N", title=None, scale=alt.Scale(range=list(SERIES)), legend=legend)
    base = alt.Chart(alt.NamedData("rows"))
    line = base.mark_line(strokeWidth=2.4).encode(x=x, y=y, color=colour)
    spread = base.mark_rule(strokeWidth=1.4).encode(x="n:Q", y="low:Q", y2="high:Q", color=colour)
    dots = base.mark_point(filled=True, size=48).encode(
        x=x, y=y, color=colour, tooltip=[alt.Tooltip("name:N", title="Of"), "n:Q", alt.Tooltip("text:N", title="Took")]
    )
    roof = (
        alt.Chart(alt.NamedData("roofs"))
        .mark_line(strokeWidth=1.6, strokeDash=DASHES[1], opacity=0.8)
        .encode(x=x, y=y, color=colour)
    )
    diagonal = alt.Chart(alt.NamedData("diagonal")).mark_line(color=GREY, strokeDash=DASHES[2]).encode(x="n:Q", y="v:Q")
    return built(alt.layer(diagonal, roof, spread, line, dots), height)


def speedup_curve(found: Sequence[Prospect], alpha: float) -> Chart:
    """Predicted speed-up over the tokens per forward, at one acceptance rate; above 1 it pays."""
    rows = [
        {
            "n": p.n,
            "speedup": p.speedup,
            "text": f"{p.tokens_per_forward:.2f} tokens per forward at {p.v:.2f} times the cost",
        }
        for p in found
    ]
    best = max(found, key=lambda p: p.speedup, default=None)
    words = f"best {best.speedup:.2f} times with {best.n} tokens" if best else "nothing measured yet"
    marks = [{"n": best.n, "speedup": best.speedup, "text": f"{best.speedup:.2f} ×"}] if best else []
    return fed(
        _speedup_spec(),
        f"Predicted speed-up at an acceptance rate of {alpha:.0%}: {words}",
        rows=rows,
        best=marks,
        one=[{"speedup": 1}],
    )


@cache
def _speedup_spec() -> dict[str, Any]:
    x = alt.X(
        "n:Q",
        title="Tokens in one forward pass",
        scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(grid=False, values=[1, 2, 4, 8, 16, 32, 64]),
    )
    y = alt.Y("speedup:Q", title="Predicted speed-up over autoregressive", scale=alt.Scale(zero=True, nice=True))
    base = alt.Chart(alt.NamedData("rows"))
    line = base.mark_line(color=BLUE, strokeWidth=2.4, point=alt.OverlayMarkDef(filled=True, size=48)).encode(
        x=x, y=y, tooltip=["n:Q", alt.Tooltip("speedup:Q", format=".2f"), alt.Tooltip("text:N", title="From")]
    )
    one = alt.Chart(alt.NamedData("one")).mark_rule(color=GREY, strokeDash=DASHES[2]).encode(y="speedup:Q")
    best = alt.Chart(alt.NamedData("best"))
    ring = best.mark_point(size=160, strokeWidth=2.4, color=ORANGE).encode(x=x, y=y)
    label = best.mark_text(dy=-16, fontSize=12, color=ORANGE, fontWeight="bold").encode(x=x, y=y, text="text:N")
    return built(alt.layer(one, line, ring, label), 300)


def accepted_bars(histogram: Sequence[tuple[int, int]]) -> Chart:
    """How many steps accepted how many tokens."""
    total = sum(n for _, n in histogram) or 1
    rows = [{"tokens": k, "steps": n, "share": n / total} for k, n in histogram]
    words = ", ".join(f"{k}: {n}" for k, n in histogram) or "nothing yet"
    return fed(_accepted_spec(), f"Steps by accepted tokens. {words}", rows=rows)


@cache
def _accepted_spec() -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    bars = base.mark_bar(color=GREEN, cornerRadiusEnd=3).encode(
        x=alt.X("tokens:O", title="Tokens accepted in a step", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("steps:Q", title="Steps", axis=alt.Axis(tickMinStep=1, tickCount=4)),
        tooltip=["tokens:O", "steps:Q", alt.Tooltip("share:Q", format=".0%")],
    )
    return built(bars, 200)
