"""What the literature reports: speed-ups over the years, reported beside independent, and bits against quality."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import altair as alt

from core.charts.chart import Chart, Row, built, fed
from core.charts.labels import columns
from core.charts.palette import BACKENDS, BLUE, GREY, ORANGE, SERIES

_SHAPES = {
    "abstract": "circle",
    "paper": "square",
    "code": "diamond",
    "independent": "cross",
    "secondary": "triangle-up",
}
_LABELS = 30  # pixels of a row
_NAME_WIDTH = 1.7  # times the bits of a point that its name reaches to


class Range(NamedTuple):
    """A speed-up as it is told: from low to high. low None: "up to". high None: "more than"."""

    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None:
            return f"up to {self.high:g} ×"
        if self.high is None:
            return f"more than {self.low:g} ×"
        return f"{self.low:g} ×" if self.low == self.high else f"{self.low:g} to {self.high:g} ×"


class Reported(NamedTuple):
    """A work with its own speed-up. seen, how: where the figure was seen, as a key and in words."""

    id: str
    title: str
    family: str
    year: int
    seen: str
    how: str
    times: Range
    setting: str


class Beside(NamedTuple):
    """A method's reported speed-up, and the lowest and highest that independent runs found."""

    method: str
    reported: Range
    found: Range


class Measured(NamedTuple):
    """A variant that a study measured: bits per weight, and a figure of quality with its interval."""

    label: str
    backend: str
    bits: float
    value: float
    low: float | None
    high: float | None


def over_the_years(works: Sequence[Reported], families: Sequence[str]) -> Chart:
    """Reported speed-up over the year, on a logarithmic axis: a line over the range, a point at its highest end."""
    rows: list[Row] = []
    beside: dict[int, int] = {}
    for w in sorted(works, key=lambda w: (w.year, -_high(w.times))):
        place = beside[w.year] = beside.get(w.year, -1) + 1
        rows.append(
            {
                "id": w.id,
                "title": w.title,
                "family": w.family,
                "seen": w.seen,
                "how": w.how,
                "year": w.year + 0.06 * place,
                "low": w.times.low if w.times.low is not None else _high(w.times),
                "high": _high(w.times),
                "text": str(w.times),
                "setting": w.setting or "not given where it was seen",
            }
        )
    best = max(rows, key=lambda r: float(r["high"]), default=None)
    words = f"Reported speed-ups of {len(rows)} works by year"
    if best:
        words += f": the largest is {best['title']}, {best['text']}, for {best['setting']}"
    return fed(_years_spec(tuple(families)), words, rows=rows)


def _high(times: Range) -> float:
    return float(times.high if times.high is not None else times.low or 1.0)


@cache
def _years_spec(families: tuple[str, ...]) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    x = alt.X(
        "year:Q",
        title="Year",
        axis=alt.Axis(format="d", grid=False, tickMinStep=1),
        scale=alt.Scale(zero=False, nice=False, padding=16),
    )
    y = alt.Y(
        "high:Q",
        title="Reported speed-up (each in its own setting)",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(format="~g", values=[1, 2, 4, 8, 16, 32], gridOpacity=0.4),
    )
    scale = alt.Scale(domain=list(families), range=list(SERIES[: len(families)]))
    legend = alt.Legend(orient="bottom", columns=columns(190))
    colour = alt.Color("family:N", title=None, scale=scale, legend=legend)
    shape = alt.Shape(
        "seen:N",
        title=None,
        scale=alt.Scale(domain=list(_SHAPES), range=list(_SHAPES.values())),
        legend=alt.Legend(orient="top", columns=columns(105), symbolFillColor=GREY),
    )
    tips = [
        alt.Tooltip("title:N", title="Work"),
        alt.Tooltip("text:N", title="Reported"),
        alt.Tooltip("setting:N", title="Setting"),
        alt.Tooltip("how:N", title="Seen"),
    ]
    spread = base.mark_rule(strokeWidth=1.6, opacity=0.7).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour)
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x=x, y=y, color=colour, shape=shape, tooltip=tips)
    # the plot keeps its height, however many lines the legends take on a narrow page
    return {**built(alt.layer(spread, dots), 480), "autosize": {"type": "fit-x", "contains": "padding"}}


def reported_against_independent(rows: Sequence[Beside]) -> Chart:
    """For each method the reported speed-up (above) and the independent one (below), on one axis with a line at 1."""
    data: list[Row] = []
    for r in rows:
        data += [_bar(r.method, "reported", r.reported), _bar(r.method, "independent", r.found)]
    words = "; ".join(f"{r.method}: reported {r.reported}, independent {r.found}" for r in rows)
    spec = _beside_spec(tuple(r.method for r in rows))
    return fed(spec, f"Reported against independent speed-up. {words}", rows=data, one=[{"one": 1}])


def _bar(method: str, source: str, times: Range) -> Row:
    low = 1.0 if times.low is None else times.low
    return {"method": method, "source": source, "low": low, "high": _high(times), "text": str(times)}


@cache
def _beside_spec(methods: tuple[str, ...]) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    y = alt.Y("method:N", title=None, sort=list(methods), axis=alt.Axis(ticks=False, domain=False, labelLimit=160))
    kinds = ["reported", "independent"]
    offset = alt.YOffset("source:N", sort=kinds, scale=alt.Scale(domain=kinds))
    x = alt.X("low:Q", title="Speed-up over autoregressive decoding", scale=alt.Scale(domainMin=0, zero=True))
    scale = alt.Scale(domain=kinds, range=[ORANGE, BLUE])
    colour = alt.Color("source:N", title=None, scale=scale, legend=alt.Legend(orient="bottom"))
    shape = alt.Shape(
        "source:N", title=None, scale=alt.Scale(domain=kinds, range=["diamond", "circle"]),
        legend=alt.Legend(orient="bottom"),
    )  # fmt: skip
    tips = [
        alt.Tooltip("method:N", title="Method"),
        alt.Tooltip("source:N", title="From"),
        alt.Tooltip("text:N", title="Speed-up"),
    ]
    bars = base.mark_rule(strokeWidth=3).encode(x=x, x2="high:Q", y=y, yOffset=offset, color=colour)
    low, high = (
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x=alt.X(f"{end}:Q"), y=y, yOffset=offset, color=colour, shape=shape, tooltip=tips
        )
        for end in ("low", "high")
    )
    words = base.mark_text(align="left", dx=10, fontSize=11, color=GREY).encode(
        x=alt.X("high:Q"), y=y, yOffset=offset, text="text:N"
    )
    one = alt.Chart(alt.NamedData("one")).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="one:Q")
    return built(alt.layer(one, bars, low, high, words), 60 + _LABELS * 2 * max(1, len(methods)))


def bits_against_quality(points: Sequence[Measured], title: str) -> Chart:
    """Our own variants: bits per weight across, the figure of quality upwards."""
    rows: list[Row] = [
        {
            "label": p.label,
            "backend": p.backend,
            "bits": p.bits,
            "value": p.value,
            "low": p.value if p.low is None else p.low,
            "high": p.value if p.high is None else p.high,
            "name": p.label if _alone(p, points) else "",
        }
        for p in points
    ]
    words = ", ".join(f"{p.label} {p.bits:.1f} bits {p.value:.3g}" for p in sorted(points, key=lambda p: p.bits))
    return fed(_bits_spec(title), f"{title} against bits per weight. {words}", rows=rows)


def _alone(point: Measured, points: Sequence[Measured]) -> bool:
    """Whether there is room for its name: no other point stands near it, or in the way of the name to its right."""
    ends = [e for p in points for e in (p.value, p.low, p.high) if e is not None]  # all of them are on the axis
    tall = max(ends) - min(ends) or 1.0
    others = (p for p in points if p is not point and abs(p.value - point.value) < 0.08 * tall)
    return not any(0.95 < p.bits / point.bits < _NAME_WIDTH for p in others)


@cache
def _bits_spec(title: str) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("rows"))
    x = alt.X(
        "bits:Q",
        title="Bits per weight, scales included",
        scale=alt.Scale(type="log", base=2, nice=False, padding=30),
        axis=alt.Axis(values=[3, 4, 5, 6, 8, 12, 16, 32], format="~g", gridOpacity=0.4),
    )
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False, padding=16), axis=alt.Axis(tickCount=6))
    names = list(BACKENDS)
    colour = alt.Color(
        "backend:N",
        title=None,
        scale=alt.Scale(domain=names, range=list(BACKENDS.values())),
        legend=alt.Legend(orient="bottom"),
    )
    shape = alt.Shape(
        "backend:N", title=None, scale=alt.Scale(domain=names, range=["circle", "square", "triangle-up"]),
        legend=alt.Legend(orient="bottom"),
    )  # fmt: skip
    spread = base.mark_rule(opacity=0.5).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour)
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=x,
        y=y,
        color=colour,
        shape=shape,
        tooltip=[alt.Tooltip("label:N", title="Variant"), alt.Tooltip("bits:Q", format=".2f", title="Bits"),
                 alt.Tooltip("value:Q", format=".3g", title=title)],
    )  # fmt: skip
    names_ = base.mark_text(align="left", dx=8, dy=-6, fontSize=11, color=GREY).encode(x=x, y=y, text="name:N")
    return built(alt.layer(spread, dots, names_), 340)
